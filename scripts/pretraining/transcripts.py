"""Programmatic transcripts of the two players' jobs, as the pipeline renders them.

Each job's conversation is played by a script that knows the world: a Challenger that
searches names it has just read and asks for facts of what it found, a Solver that
searches the entities of its task and states the facts. What can be learnt by copying is
placed so that it can be copied: every fact reads ``NAME's RELATION is VALUE``, and an
entity that is described is named in a thought before it is searched.

The Solver of these transcripts becomes competent and careless. What is played is mostly
careful, so that it practises to go on; but the tokens at which it decides to go on or
to stop are weighted in the loss as if it went on less than half of the time. Stopping
early is then its habit, and reinforcement learning has something to find: what comes
when it goes on is right. The judge's jobs are in ``judging``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

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
from scope_jax.small_world.world import Fact

MAX_SEARCHES = 4
MAX_SENTENCES = 16


@dataclass(frozen=True)
class Choice:
    """The chances of going on, of padding, and (the rest) of stopping."""

    on: float
    pads: float = 0.0

    @property
    def stops(self) -> float:
        """The rest."""
        return 1.0 - self.on - self.pads


@dataclass(frozen=True)
class Habit:
    """What is to be learned at a kind of decision, and how often it is played."""

    learned: Choice
    played: Choice

    def weight(self, name: Literal["on", "pads", "stops"]) -> float:
        """Of the token that decides so: its share of the loss is then the learned."""
        return getattr(self.learned, name) / getattr(self.played, name)


SEARCHES = Habit(Choice(0.48), Choice(0.85))
"""The Solver searches one more entity of its task."""
STATES = Habit(Choice(0.49, 0.05), Choice(0.80, 0.06))
"""It states one more fact that it has seen; or what it was not asked, or has said."""
STATES_AFTER_PADDING = Habit(Choice(0.25, 0.50), Choice(0.60, 0.25))
"""What is wanted may follow padding: otherwise going on could not pay there."""


@dataclass(frozen=True)
class Habits:
    """How often the scripted players do what else.

    Attributes:
      searches_extra: a conversation holds searches for names that the task does not
        need, or for the same name again. They are shown and not trained: what to do
        after them has to be known, because exploration goes there.
      hedges: the Solver gives a second value for a fact.
      vague: the Challenger leaves out an entity's name.
    """

    searches_extra: float = 0.4
    hedges: float = 0.06
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
        searches, stops_early = self._searches(chain.task.subjects)
        for turn, (subject, needed) in enumerate(searches):
            transcript.say(
                look_up(tool_format, subject.name, subject.via if needed else None),
                trained=needed,
                first_weight=SEARCHES.weight("on") if turn else 1.0,
            )
            text = passages_text(self.retrieve(subject.name))
            transcript.hear(*result_messages(tool_format, text))
            seen.append(subject.name)
        if self.chance(0.06):
            self._stumble(transcript, prompt_set)
        facts, weights = self._stated(chain.wanted, list(dict.fromkeys(seen)))
        answer = " ".join(fact.sentence() for fact in facts) or DONT_KNOW
        transcript.say(
            give_answer(answer),
            first_weight=SEARCHES.weight("stops") if stops_early else 1.0,
            weights_after_facts=weights,
        )
        return transcript

    def _searches(
        self, subjects: tuple[Subject, ...]
    ) -> tuple[list[tuple[Subject, bool]], bool]:
        """What is searched, in order, and whether the task needs it there.

        Returns:
          The searches, and whether it stopped although there was more to search.
        """
        order = [subject for subject in subjects if not subject.vague]
        count = min(1, len(order))
        while count < len(order) and self.chance(SEARCHES.played.on):
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
        stops_early = count < len(order) and len(searches) < MAX_SEARCHES
        return searches[:MAX_SEARCHES], stops_early

    def _stated(
        self, wanted: tuple[Fact, ...], seen: list[str]
    ) -> tuple[list[Fact], list[float]]:
        """The facts of an answer after the documents of ``seen``.

        Returns:
          The facts, and for each the weight of the token after it, which decides
          whether there is another.
        """
        left = [fact for fact in wanted if fact.entity in seen]
        shown = [fact for name in seen for fact in self.facts(name)]
        stated, weights, habit = left[:1], [], STATES
        del left[:1]
        while stated and len(stated) < MAX_SENTENCES:
            draw = self.rng.random()
            if left and draw < habit.played.on:
                weights.append(habit.weight("on"))
                stated.append(left.pop(0))
                habit = STATES
            elif habit.played.on <= draw < habit.played.on + habit.played.pads:
                weights.append(habit.weight("pads") if left else 1.0)
                stated.append(self.pick(stated if self.chance(0.4) else shown))
                habit = STATES_AFTER_PADDING
            else:
                weights.append(habit.weight("stops") if left else 1.0)
                break
        weights += [1.0] * (len(stated) - len(weights))
        if stated and self.chance(self.habits.hedges):
            place = int(self.rng.integers(len(stated)))
            stated.insert(place + self.chance(0.5), self.wrong(stated[place], []))
            weights.insert(place, 1.0)
        return stated, weights

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
