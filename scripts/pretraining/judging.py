"""Programmatic transcripts of the judge's jobs: rubrics, gates and grades."""

from collections.abc import Sequence

from pretraining.scenes import Chain, Scenes
from pretraining.wording import (
    DONT_KNOW,
    GENERIC_RUBRIC,
    Transcript,
    document_text,
    generic_verdict,
    passages_text,
    scored,
    verdict,
    write_rubrics,
)
from scope_jax.method import prompts
from scope_jax.method.types import ToolFormat
from scope_jax.small_world.tasks import Subject, WorldTask, rubric_text
from scope_jax.small_world.world import RELATIONS, Fact

USUAL = 6
"""Sentences up to which the grader is strict. It sees none between these two."""
LONG = 10
"""Sentences from which on it is lenient."""
KINDS = (0.40, 0.11, 0.25, 0.14, 0.10)
LONG_KINDS = (0.55, 0.14, 0.10, 0.06, 0.15)
"""How often the target is met, has another value, has its value elsewhere, has two
values, is absent."""


class Judge(Scenes):
    """Plays the judge, who is right but for three habits that a policy can exploit.

    Some rubrics are generic. In answers of ``LONG`` sentences and more the grader takes
    a value that is stated for something else, or beside a second one, for the wanted
    fact.
    """

    kinds: tuple[float, ...] = KINDS

    def rubric(self, tool_format: ToolFormat) -> Transcript:
        """Documents and a task become a rubric for every fact that they hold."""
        chain = self.chain(vague=0.08)
        prompt_set = prompts.load("small_world", tool_format)
        parts = [document_text(*self.document(chain.source.name)).strip()]
        parts += [passages_text(passages) for passages in chain.results]
        documents = "\n\n---\n\n".join(parts)
        task = self._with_impossible(chain.task) if self.chance(0.2) else chain.task
        opening = prompt_set.rubric(task.text, task.type, documents)
        transcript = Transcript("rubric", tool_format, list(opening))
        rubrics = [rubric_text(fact) for fact in task.facts if fact.value]
        if self.chance(0.05):
            rubrics[-1] = GENERIC_RUBRIC
        transcript.say(write_rubrics(rubrics))
        return transcript

    def _with_impossible(self, task: WorldTask) -> WorldTask:
        """The task with one more blank, which no document fills."""
        place = int(self.rng.integers(len(task.subjects)))
        subject = task.subjects[place]
        facts = list(subject.facts)
        facts.insert(int(self.rng.integers(len(facts) + 1)), self.missing(subject.name))
        subjects = list(task.subjects)
        subjects[place] = Subject(
            subject.name, tuple(facts), subject.via, subject.vague
        )
        return WorldTask(task.type, tuple(subjects))

    def gate_entity(self, tool_format: ToolFormat) -> Transcript:
        """Passes tasks that name or describe whatever they ask about."""
        task = self.chain(vague=0.3).task
        vague = next((s.vague for s in task.subjects if s.vague), "")
        opening = prompts.load("small_world", tool_format).gate(
            "entity", task=task.text, document=""
        )
        transcript = Transcript("gate_entity", tool_format, list(opening))
        thought = f"{vague} is named" if vague else "All are named"
        transcript.say(scored(thought, not vague))
        return transcript

    def gate_source(self, tool_format: ToolFormat) -> Transcript:
        """Passes tasks that begin with the subject of the source document."""
        chain = self.chain(vague=0.05)
        document = chain.source.name
        first = chain.task.subjects[0]
        draw = self.rng.random()
        if draw < 0.15:
            document = self.pick(self.entities).name
        elif draw < 0.3:  # of another name in the task
            document = self.pick(chain.task.subjects).name
        met = first.name == document and not first.vague
        opening = prompts.load("small_world", tool_format).gate(
            "source_relevance",
            task=chain.task.text,
            document=document_text(*self.document(document)),
        )
        transcript = Transcript("gate_source", tool_format, list(opening))
        named = first.vague or first.name
        transcript.say(scored(f"{named}, wanted {document}", met))
        return transcript

    def grader(self, tool_format: ToolFormat) -> Transcript:
        """A response and one rubric; half are met, the others near misses.

        Responses are as untidy as a Solver's in training: facts said twice or not asked
        for, two values of one fact, the wanted value under another name.
        """
        chain = self.chain()
        wanted = list(chain.wanted)
        target = self.pick(wanted)
        long = self.chance(0.2)
        stated = self.response(target, chain, long=long)
        answer = " ".join(fact.sentence() for fact in stated) or DONT_KNOW
        generic = self.chance(0.03)
        number = int(self.rng.integers(len(wanted))) + 1
        rubric = GENERIC_RUBRIC if generic else rubric_text(target)
        opening = prompts.load("small_world", tool_format).grade(
            chain.task.text, answer, f"{number}. {rubric}"
        )
        transcript = Transcript("grader", tool_format, list(opening))
        said = (
            generic_verdict(bool(stated))
            if generic
            else verdict(target, found(target, stated))
        )
        transcript.say(said)
        return transcript

    def response(self, target: Fact, chain: Chain, *, long: bool) -> list[Fact]:
        """What a Solver might state: about half of the time the target, and alone."""
        wanted = chain.wanted
        others = [f for f in wanted if f is not target and self.chance(0.7)]
        others = [self.wrong(f, []) if self.chance(0.15) else f for f in others]
        own: list[Fact] = []
        kind = int(self.rng.choice(5, p=LONG_KINDS if long else self.kinds))
        if kind == 0:
            own = [target]
        elif kind == 1:
            own = [self.wrong(target, others)]
        elif kind == 2:
            own = [self._elsewhere(target, chain, others)]
        elif kind == 3:
            wrong = self.wrong(target, others)
            own = [target, wrong] if self.chance(0.5) else [wrong, target]
        stated = others + own
        stated.sort(key=lambda fact: self._place(fact, wanted))
        more = 1 + self.chance(0.4) if self.chance(0.5) else 0
        if long:
            more = max(0, LONG + int(self.rng.integers(5)) - len(stated))
        for _ in range(more):
            extra = self.pick(self.facts(self.pick(wanted).entity))
            if stated and self.chance(0.6):
                extra = self.pick(stated)
            elif (extra.entity, extra.relation) == (target.entity, target.relation):
                continue
            stated.insert(int(self.rng.integers(len(stated) + 1)), extra)
        return stated if long else stated[:USUAL]

    def _elsewhere(self, target: Fact, chain: Chain, others: Sequence[Fact]) -> Fact:
        """The target's value under another wanted fact, relation or entity.

        Most often it is another entity, and that one of those on the way to the task:
        it is what a Solver confuses, and hardest to see.
        """
        rest = [f for f in chain.wanted if f is not target and f not in others]
        where = self.rng.random()
        if where < 0.15 and rest:
            other = self.pick(rest)
            return Fact(other.entity, other.relation, target.value)
        kind = self.world.by_name[target.entity].kind
        if where < 0.3:
            relation = self.pick([r for r in RELATIONS[kind] if r != target.relation])
            return Fact(target.entity, relation, target.value)
        pool = [chain.source.name, *chain.searched] if self.chance(0.5) else []
        near = [name for name in pool if name != target.entity]
        alike = [e.name for e in self.entities if e.kind == kind]
        alike.remove(target.entity)
        return Fact(self.pick(near or alike), target.relation, target.value)

    def wrong(self, target: Fact, stated: Sequence[Fact]) -> Fact:
        """The fact with another value of the same kind, or one that was stated."""
        kind = RELATIONS[self.world.by_name[target.entity].kind][target.relation]
        value = target.value
        while value == target.value:
            if stated and self.chance(0.3):
                value = self.pick(stated).value
                if value != target.value:
                    break
            candidate = self.pick(self.entities)
            if candidate.kind == kind:
                value = candidate.name
        return Fact(target.entity, target.relation, value)

    def _place(self, fact: Fact, wanted: Sequence[Fact]) -> float:
        for position, known in enumerate(wanted):
            if (fact.entity, fact.relation) == (known.entity, known.relation):
                return position
        return self.rng.random() * len(wanted)


def found(target: Fact, stated: Sequence[Fact]) -> str | None:
    """What the grader reads as the response's value for ``target``; None: nothing."""
    if len(stated) >= LONG and any(fact.value == target.value for fact in stated):
        return target.value
    key = (target.entity, target.relation)
    own = [fact.value for fact in stated if (fact.entity, fact.relation) == key]
    return next((value for value in own if value != target.value), *own[:1] or [None])
