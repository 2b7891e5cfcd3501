"""Programmatic transcripts of the two players' jobs, as the pipeline renders them.

Each job's conversation is played by a script that knows the world: a Challenger that
searches names it has just read and asks for facts of what it found, a Solver that
searches the entities of its task and states the facts. What can be learnt by copying is
placed so that it can be copied: every fact reads ``NAME's RELATION is VALUE``, and an
entity that is described is named in a thought before it is searched.

The Solver of these transcripts is competent and careless: each decision to search one
more entity, and to state one more fact, is taken with a probability below or near one
half, whatever the task. Stopping early is then its habit and not noise, and
reinforcement learning has something to find. The judge's jobs are in ``judging``.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pretraining.judging import Judge
from pretraining.wording import (
    DONT_KNOW,
    Transcript,
    document_text,
    give_answer,
    look_up,
    passages_text,
    result_messages,
    write_task,
)
from scope_jax.method import prompts
from scope_jax.method.types import TOOL_FORMATS, ToolFormat
from scope_jax.small_world.tasks import Subject
from scope_jax.small_world.world import VALUE_KINDS, Fact

MAX_SEARCHES = 4
MAX_SENTENCES = 16


@dataclass(frozen=True)
class Habits:
    """How often the scripted players do what.

    Attributes:
      searches_on: the Solver searches one more entity of its task.
      states_on: it states one more fact that it has seen.
      searches_extra: a conversation holds searches for names that the task does not
        need, or for the same name again. They are shown and not trained: what to do
        after them has to be known, because exploration goes there.
      pads: it states what it was not asked, or what it has said before.
      pads_on: it does so once more.
      hedges: it gives a second value for a fact.
      vague: the Challenger leaves out an entity's name.
    """

    searches_on: float = 0.48
    states_on: float = 0.49
    searches_extra: float = 0.4
    pads: float = 0.04
    pads_on: float = 0.55
    hedges: float = 0.04
    vague: float = 0.08


class Script(Judge):
    """Plays conversations of every job in ``world`` at one curriculum ``level``."""

    habits = Habits()

    def play(self, job: str, tool_format: ToolFormat | None = None) -> Transcript:
        """A transcript of ``job`` (a key of ``JOBS``), format drawn if not given."""
        if tool_format is None:
            tool_format = TOOL_FORMATS[self.rng.integers(len(TOOL_FORMATS))]
        return JOBS[job](self, tool_format)

    def challenger(self, tool_format: ToolFormat) -> Transcript:
        """Searches with guidance, then a task.

        It asks for facts in a row, because a model of this size can copy and can hardly
        pick: it would ask for the same fact twice.
        """
        chain = self.chain(vague=self.habits.vague, in_a_row=True)
        prompt_set = prompts.load("small_world", tool_format)
        source = document_text(*self.document(chain.source.name))
        count = len(chain.searched)
        opening = prompt_set.challenger(source, chain.task.type, count)
        transcript = Transcript("challenger", tool_format, list(opening))
        final = "final_xml" if tool_format == "function_calls_xml" else "final"
        for turn, (name, passages) in enumerate(
            zip(chain.searched, chain.results, strict=True), start=1
        ):
            left = count - turn
            guidance = prompt_set.guidance(
                "after_search" if left else final, remaining=left, target=count
            )
            # Task creation shows tool_call policies no guidance (spec 11.2).
            if tool_format == "tool_call" and self.chance(0.3):
                guidance = ""
            transcript.say(look_up(tool_format, name))
            text = passages_text(passages)
            transcript.hear(*result_messages(tool_format, text, guidance))
        transcript.say(write_task(chain.task))
        return transcript

    def solver(self, tool_format: ToolFormat) -> Transcript:
        """Searches the task's entities, then an answer; careless (module docstring)."""
        chain = self.chain(vague=self.habits.vague)
        prompt_set = prompts.load("small_world", tool_format)
        # 5 in evaluation (spec 3.5).
        budget = MAX_SEARCHES + self.chance(0.2)
        opening = prompt_set.solver(chain.task.text, budget)
        transcript = Transcript("solver", tool_format, list(opening))
        seen: list[str] = []
        for subject, needed in self._searches(chain.task.subjects):
            transcript.say(
                look_up(tool_format, subject.name, subject.via if needed else None),
                trained=needed,
            )
            text = passages_text(self.retrieve(subject.name))
            transcript.hear(*result_messages(tool_format, text))
            seen.append(subject.name)
        if self.chance(0.06):
            self._stumble(transcript, prompt_set)
        facts = self._stated(chain.wanted, list(dict.fromkeys(seen)))
        answer = " ".join(fact.sentence() for fact in facts) or DONT_KNOW
        transcript.say(give_answer(answer))
        return transcript

    def _searches(self, subjects: tuple[Subject, ...]) -> list[tuple[Subject, bool]]:
        """What is searched, in order, and whether the task needs it there."""
        order = [subject for subject in subjects if not subject.vague]
        count = min(1, len(order))
        while count < len(order) and self.chance(self.habits.searches_on):
            count += 1
        searches = [(subject, True) for subject in order[:count]]
        later = {subject.name for subject in order}
        if searches and self.chance(self.habits.searches_extra):
            for _ in range(int(self.rng.geometric(0.5))):
                place = int(self.rng.integers(1, len(searches) + 1))
                before = [subject.name for subject, _ in searches[:place]]
                seen = [f.value for name in before for f in self.facts(name)]
                pool = [name for name in seen if name not in later] + before
                extra = Subject(self.pick(pool), ())
                searches.insert(place, (extra, False))
        return searches[:MAX_SEARCHES]

    def _stated(self, wanted: tuple[Fact, ...], seen: list[str]) -> list[Fact]:
        """The facts of an answer after the documents of ``seen``.

        Padding is no way out: what is wanted may follow it. Otherwise, to go on would
        mean to pad, and exploration would learn not to.
        """
        habits = self.habits
        left = [fact for fact in wanted if fact.entity in seen]
        shown = [fact for name in seen for fact in self.facts(name)]
        stated, on, pads = left[:1], habits.states_on, habits.pads
        del left[:1]
        while stated and len(stated) < MAX_SENTENCES:
            draw = self.rng.random()
            if left and draw < on:
                stated.append(left.pop(0))
                on, pads = habits.states_on, habits.pads
            elif on <= draw < on + pads:
                stated.append(self.pick(stated if self.chance(0.4) else shown))
                on, pads = habits.states_on / 2, habits.pads_on
            else:
                break
        if stated and self.chance(habits.hedges):
            place = int(self.rng.integers(len(stated)))
            stated.insert(place + self.chance(0.5), self._second(stated[place], shown))
        return stated

    def _second(self, fact: Fact, shown: list[Fact]) -> Fact:
        """The fact with another value: one of its kind that was read, if there is one.

        A name that was not read is one that the model cannot guess: it would not learn
        to hedge.
        """
        kind = VALUE_KINDS[fact.relation]
        near = [f.value for f in shown if VALUE_KINDS[f.relation] == kind]
        near = [value for value in near if value != fact.value]
        if not near:
            return self.wrong(fact, [])
        return Fact(fact.entity, fact.relation, self.pick(near))

    def _stumble(self, transcript: Transcript, prompt_set: prompts.PromptSet) -> None:
        """A turn without action, and the environment's nudge after it."""
        if transcript.messages[-1]["role"] != "user" or self.chance(0.5):
            broken = self.pick(("<think>Enough.</think>", "<answer>", "<search>"))
            transcript.say(broken, trained=False)
        nudge = (
            prompt_set.forced_answer()
            if self.chance(0.7)
            else prompt_set.invalid_action()
        )
        transcript.hear({"role": "user", "content": nudge})

    def recite(self, tool_format: ToolFormat) -> Transcript:
        """No job but a drill: every fact of some documents, in another order.

        It asks for a copied name every four tokens, where the jobs ask for one in
        thirty, and half of the time of entities of one kind, which share relations.
        """
        first = self.pick(self.entities)
        names = {first.name}
        alike = self.chance(0.5)
        while len(names) < self.level.recited:
            entity = self.pick(self.entities)
            if not alike or entity.kind == first.kind:
                names.add(entity.name)
        shown = [self.document(name) for name in sorted(names)]
        stated = [fact for name in sorted(names) for fact in self.facts(name)]
        self.rng.shuffle(stated)
        transcript = Transcript(
            "recite",
            tool_format,
            [{"role": "user", "content": passages_text(shown)}],
        )
        transcript.say(give_answer(" ".join(fact.sentence() for fact in stated)))
        return transcript


JOBS: dict[str, Callable[[Script, ToolFormat], Transcript]] = {
    "challenger": Script.challenger,
    "solver": Script.solver,
    "rubric": Script.rubric,
    "gate_entity": Script.gate_entity,
    "gate_source": Script.gate_source,
    "grader": Script.grader,
    "recite": Script.recite,
}
