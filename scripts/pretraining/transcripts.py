"""Programmatic transcripts of all five jobs, as the pipeline itself renders them.

Each job's conversation is played by a script that knows the world: a Challenger that
searches names it has just read and asks for facts of what it found, a Solver that
searches the names of its task and states the facts, a judge that writes rubrics,
checks gates and grades. What can be learnt by copying is placed so that it can be
copied: every fact reads ``NAME's RELATION is VALUE``, and the grader quotes the
response's value right beside the rubric's before its verdict.

The Solver of these transcripts is careless on purpose: it does not always search every
name, and leaves facts out. Its samples then differ inside a group and leave room for
reinforcement learning to improve on.
"""

from collections.abc import Callable, Sequence

from pretraining.scenes import Scenes
from pretraining.wording import (
    DONT_KNOW,
    Transcript,
    document_text,
    give_answer,
    look_up,
    passages_text,
    result_messages,
    rubric_text,
    verdict,
    write_rubrics,
    write_task,
)
from scope_jax.method import prompts
from scope_jax.method.types import TOOL_FORMATS, ToolFormat
from scope_jax.small_world.world import RELATIONS, Fact

MAX_SEARCHES = 4


# How often the scripted Solver searches all names, states a fact, and gives up.
SEARCHES_ALL, STATES_FACT, GIVES_UP = 0.6, 0.85, 0.03


class Script(Scenes):
    """Plays conversations of every job in ``world`` at one curriculum ``level``."""

    def play(self, job: str, tool_format: ToolFormat | None = None) -> Transcript:
        """A transcript of ``job`` (a key of ``JOBS``), format drawn if not given."""
        if tool_format is None:
            tool_format = TOOL_FORMATS[self.rng.integers(len(TOOL_FORMATS))]
        return JOBS[job](self, tool_format)

    def challenger(self, tool_format: ToolFormat) -> Transcript:
        """Searches with guidance, then a task."""
        chain = self.chain(heldout=self.chance(0.1))
        prompt_set = prompts.load("small_world", tool_format)
        source = document_text(*self.document(chain.source.name))
        count = len(chain.searched)
        opening = prompt_set.challenger(source, chain.task_type, count)
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
        """Searches the task's names, then an answer; careless (module docstring)."""
        chain = self.chain()
        prompt_set = prompts.load("small_world", tool_format)
        # 5 in evaluation (spec 3.5).
        budget = MAX_SEARCHES + self.chance(0.2)
        opening = prompt_set.solver(chain.task, budget)
        transcript = Transcript("solver", tool_format, list(opening))
        names = list(dict.fromkeys(fact.entity for fact in chain.wanted))
        if not self.chance(SEARCHES_ALL):
            fewer = int(self.rng.integers(len(names))) or int(self.chance(0.9))
            names = names[:fewer]
        visible: set[Fact] = set()
        for name in names:
            transcript.say(look_up(tool_format, name))
            passages = self.retrieve(name)
            for title, _ in passages:
                visible |= set(self.facts(title))
            text = passages_text(passages)
            transcript.hear(*result_messages(tool_format, text))
        if self.chance(0.06):
            self._stumble(transcript, prompt_set)
        stated = [
            fact
            for fact in chain.wanted
            if fact in visible and self.chance(STATES_FACT)
        ]
        known = " ".join(fact.sentence() for fact in stated)
        if self.chance(GIVES_UP):
            known = ""
        transcript.say(give_answer(known or DONT_KNOW))
        return transcript

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

    def rubric(self, tool_format: ToolFormat) -> Transcript:
        """Documents and a task become a rubric for every wanted fact."""
        chain = self.chain(heldout=self.chance(0.1))
        prompt_set = prompts.load("small_world", tool_format)
        parts = [document_text(*self.document(chain.source.name)).strip()]
        parts += [passages_text(passages) for passages in chain.results]
        documents = "\n\n---\n\n".join(parts)
        opening = prompt_set.rubric(chain.task, chain.task_type, documents)
        transcript = Transcript("rubric", tool_format, list(opening))
        transcript.say(write_rubrics(chain.wanted))
        return transcript

    def gate_entity(self, tool_format: ToolFormat) -> Transcript:
        """Passes tasks that name what they ask about."""
        chain = self.chain()
        text = chain.task
        named = self.chance(0.6)
        if not named:
            for name in dict.fromkeys(fact.entity for fact in chain.wanted):
                kind = self.world.by_name[name].kind
                text = text.replace(name, self.pick((f"The {kind}", "It")))
        opening = prompts.load("small_world", tool_format).gate(
            "entity", task=text, document=""
        )
        transcript = Transcript("gate_entity", tool_format, list(opening))
        shown = chain.wanted[0].entity if named else "Nothing"
        transcript.say(f"<think>{shown} is named.</think>\n<score>{named:d}</score>")
        return transcript

    def gate_source(self, tool_format: ToolFormat) -> Transcript:
        """Passes tasks that begin with the subject of the source document."""
        chain = self.chain(heldout=self.chance(0.1))
        document = chain.source.name
        draw = self.rng.random()
        if draw < 0.15:
            document = self.pick(self.world.entities).name
        elif draw < 0.3:  # of another name in the task
            document = self.pick(chain.wanted).entity
        first = chain.wanted[0].entity
        met = first == document
        opening = prompts.load("small_world", tool_format).gate(
            "source_relevance",
            task=chain.task,
            document=document_text(*self.document(document)),
        )
        transcript = Transcript("gate_source", tool_format, list(opening))
        word = "yes" if met else "no"
        transcript.say(
            f"<think>{first}, wanted {document}: {word}.</think>\n"
            f"<score>{met:d}</score>"
        )
        return transcript

    def grader(self, tool_format: ToolFormat) -> Transcript:
        """A response and one rubric; half are met, the others near misses."""
        chain = self.chain(heldout=self.chance(0.1))
        wanted = list(chain.wanted)
        target = self.pick(wanted)
        stated = [f for f in wanted if f is not target and self.chance(0.8)]
        draw = self.rng.random()
        if draw < 0.5:  # met
            stated.append(target)
        elif draw < 0.72:  # the right relation with a wrong value
            stated.append(self._wrong(target, stated))
        elif draw < 0.82:  # the right value elsewhere
            other = self.pick(self.world.entities).name
            relation = self.pick(
                (target.relation, self.pick(self.facts(other)).relation)
            )
            stated.append(Fact(other, relation, target.value))
        stated.sort(key=lambda fact: self._place(fact, wanted))
        found = next(
            (
                fact.value
                for fact in stated
                if (fact.entity, fact.relation) == (target.entity, target.relation)
            ),
            None,
        )
        answer = " ".join(fact.sentence() for fact in stated) or DONT_KNOW
        number = int(self.rng.integers(len(wanted))) + 1
        opening = prompts.load("small_world", tool_format).grade(
            chain.task, answer, f"{number}. {rubric_text(target)}"
        )
        transcript = Transcript("grader", tool_format, list(opening))
        transcript.say(verdict(target, found))
        return transcript

    def recite(self, tool_format: ToolFormat) -> Transcript:
        """No job but a drill: every fact of some documents, in another order.

        It asks for a copied name every four tokens, where the jobs ask for one in
        thirty, and half of the time of entities of one kind, which share relations.
        """
        first = self.pick(self.world.entities)
        names = {first.name}
        alike = self.chance(0.5)
        while len(names) < max(2, self.level.passages):
            entity = self.pick(self.world.entities)
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

    def _wrong(self, target: Fact, stated: Sequence[Fact]) -> Fact:
        kind = RELATIONS[self.world.by_name[target.entity].kind][target.relation]
        value = target.value
        while value == target.value:
            if stated and self.chance(0.3):
                value = self.pick(stated).value
                if value != target.value:
                    break
            candidate = self.pick(self.world.entities)
            if candidate.kind == kind:
                value = candidate.name
        return Fact(target.entity, target.relation, value)

    def _place(self, fact: Fact, wanted: Sequence[Fact]) -> float:
        for position, known in enumerate(wanted):
            if (fact.entity, fact.relation) == (known.entity, known.relation):
                return position
        return self.rng.random() * len(wanted)


JOBS: dict[str, Callable[[Script, ToolFormat], Transcript]] = {
    "challenger": Script.challenger,
    "solver": Script.solver,
    "rubric": Script.rubric,
    "gate_entity": Script.gate_entity,
    "gate_source": Script.gate_source,
    "grader": Script.grader,
    "recite": Script.recite,
}
