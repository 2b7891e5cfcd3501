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

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from scope_jax import prompts
from scope_jax.demo.world import RELATIONS, Entity, Fact, World, task_text
from scope_jax.types import TOOL_FORMATS, ToolFormat

Message = dict[str, str]

MAX_SEARCHES = 4
_TYPES = ("long_form_qa", "planning", "summarization", "writing")
DONT_KNOW = "I do not know."


@dataclass(frozen=True)
class Level:
    """How much a context holds; the curriculum raises it step by step."""

    facts: int
    passages: int
    searches: int


LEVELS = (
    Level(facts=2, passages=1, searches=1),
    Level(facts=3, passages=2, searches=1),
    Level(facts=4, passages=2, searches=2),
    Level(facts=4, passages=3, searches=3),
)


@dataclass(frozen=True)
class Carelessness:
    """How often the scripted Solver does less than the task wants."""

    searches_all: float = 0.6
    states_fact: float = 0.85
    gives_up: float = 0.03


@dataclass
class Transcript:
    """One conversation; the assistant turns listed in ``trained`` are in the loss."""

    job: str
    tool_format: ToolFormat
    messages: list[Message]
    trained: list[int] = field(default_factory=list)

    def say(self, content: str, *, trained: bool = True) -> None:
        """Append an assistant turn."""
        if trained:
            self.trained.append(len(self.messages))
        self.messages.append({"role": "assistant", "content": content})

    def hear(self, *messages: Message) -> None:
        """Append user or tool turns."""
        self.messages += messages


def document_text(title: str, text: str) -> str:
    """A document as a Challenger reads it (spec 11.1)."""
    return f"(Title: {title})\n{text}\n"


def passages_text(passages: Sequence[tuple[str, str]]) -> str:
    """Search results as (title, text) pairs are shown (spec 2.4)."""
    shown = (
        f"Doc {i} (Title: {title})\n{text}\n"
        for i, (title, text) in enumerate(passages, start=1)
    )
    return "\n".join(shown).strip()


def search_call(tool_format: ToolFormat, query: str) -> str:
    """A search call in the words of ``tool_format`` (spec 3.1)."""
    if tool_format == "search_r1":
        return f"<search>{query}</search>"
    if tool_format == "tool_call":
        call = {"name": "search", "arguments": {"query_list": [query]}}
        return f"<tool_call>\n{json.dumps(call)}\n</tool_call>"
    return f'<function_calls>search(query="{query}")</function_calls>'


def result_block(tool_format: ToolFormat, text: str) -> str:
    """A search result as the conversation holds it (spec 2.5)."""
    if tool_format == "tool_call":
        return json.dumps({"result": text})
    return f"<information>{text}</information>"


def result_messages(
    tool_format: ToolFormat, text: str, guidance: str = ""
) -> list[Message]:
    """The environment's turns after a search (spec 3.7)."""
    block = result_block(tool_format, text)
    if tool_format == "tool_call":
        messages = [{"role": "tool", "content": block}]
        if guidance:
            messages.append({"role": "user", "content": guidance})
        return messages
    content = f"{block}\n\n{guidance}" if guidance else block
    return [{"role": "user", "content": content}]


def look_up(tool_format: ToolFormat, name: str) -> str:
    """An assistant turn that searches ``name``."""
    return f"<think>Look up {name}.</think>\n{search_call(tool_format, name)}"


def write_task(text: str) -> str:
    """The Challenger's last turn."""
    return f"<think>All found.</think>\n<task>{text}</task>"


def give_answer(text: str) -> str:
    """The Solver's last turn."""
    return f"<think>Enough.</think>\n<answer>{text}</answer>"


def write_rubrics(facts: Sequence[Fact]) -> str:
    """The judge's rubrics for ``facts``."""
    lines = "".join(
        f'<rubric priority="critical">{rubric_text(fact)}</rubric>\n' for fact in facts
    )
    return f"<rubrics>\n{lines}</rubrics>"


def rubric_text(fact: Fact) -> str:
    """One rubric."""
    return f"Identifies that {fact.sentence()}"


def verdict(fact: Fact, found: str | None) -> str:
    """The grader's output: the response's value beside the wanted one, then a score."""
    met = found == fact.value
    quote = f"{fact.entity}'s {fact.relation} is {found or 'nothing'}"
    word = "yes" if met else "no"
    return (
        f"<think>{quote}, wanted {fact.value}: {word}.</think>\n<score>{met:d}</score>"
    )


@dataclass(frozen=True)
class Chain:
    """A Challenger's way through the world: what it read, searched and then asked."""

    source: Entity
    searched: tuple[str, ...]
    results: tuple[tuple[tuple[str, str], ...], ...]
    wanted: tuple[Fact, ...]
    task_type: str

    @property
    def task(self) -> str:
        """The task's text."""
        return task_text(self.wanted, self.task_type)


class Script:
    """Plays conversations of every job in ``world`` at one curriculum ``level``."""

    def __init__(
        self,
        world: World,
        rng: np.random.Generator,
        level: Level = LEVELS[-1],
        carelessness: Carelessness = Carelessness(),
    ):
        self.world = world
        self.rng = rng
        self.level = level
        self.carelessness = carelessness

    def play(self, job: str, tool_format: ToolFormat | None = None) -> Transcript:
        """A transcript of ``job`` (a key of ``JOBS``), format drawn if not given."""
        if tool_format is None:
            tool_format = TOOL_FORMATS[self.rng.integers(len(TOOL_FORMATS))]
        return JOBS[job](self, tool_format)

    def chance(self, probability: float) -> bool:
        """True with ``probability``."""
        return self.rng.random() < probability

    def pick(self, items: Sequence):
        """One of ``items``, uniformly."""
        return items[self.rng.integers(len(items))]

    def facts(self, name: str) -> tuple[Fact, ...]:
        """The facts of ``name`` that documents show at this level."""
        return self.world.by_name[name].facts[: self.level.facts]

    def document(self, name: str) -> tuple[str, str]:
        """Title and text of ``name``'s document at this level."""
        return name, " ".join(fact.sentence() for fact in self.facts(name))

    def retrieve(self, name: str) -> tuple[tuple[str, str], ...]:
        """Results for ``name``: its own document, then such as mention it, or any."""
        others = [other for other in self.world.mentions[name] if self.chance(0.5)]
        self.rng.shuffle(others)
        names = [name, *others[: self.level.passages - 1]]
        while len(names) < self.level.passages:
            other = self.pick(self.world.entities).name
            if other not in names:
                names.append(other)
        return tuple(self.document(found) for found in names)

    def chain(self, *, heldout: bool = False) -> Chain:
        """A way through the world; tasks never ask about held-out entities."""
        entities = self.world.by_name
        while True:
            source = self.pick(self.world.entities)
            if source.heldout == heldout:
                break
        count = int(self.rng.choice(3, p=(4 / 9, 3 / 9, 2 / 9))) + 1
        count = min(count, self.level.searches)
        searched: list[str] = []
        results = []
        here = source.name
        while len(searched) < count:
            onward = [
                fact.value
                for fact in self.facts(here)
                if fact.value not in searched
                and fact.value != source.name
                and entities[fact.value].heldout == heldout
            ]
            if not onward:
                onward = [
                    entity.name
                    for entity in (self.pick(self.world.entities),)
                    if entity.heldout == heldout and entity.name not in searched
                ]
                if not onward:
                    continue
            here = self.pick(onward)
            searched.append(here)
            results.append(self.retrieve(here))
        return Chain(
            source,
            tuple(searched),
            tuple(results),
            self._wanted(source, searched, results, heldout),
            self.pick(_TYPES),
        )

    def _wanted(self, source, searched, results, heldout) -> tuple[Fact, ...]:
        about = list(searched)
        if self.chance(0.6):
            about.insert(0, source.name)
        if self.chance(0.15):
            about.append(self.pick(self.pick(results))[0])
        about = [
            name
            for name in dict.fromkeys(about)
            if self.world.by_name[name].heldout == heldout
        ]
        count = 4 if self.chance(0.2) else 3
        about = about[:count]
        wanted: list[Fact] = []
        # Facts are dealt out as evenly as chance has it, at least one per entity.
        shares = np.ones(len(about), int)
        for _ in range(count - len(about)):
            shares[self.rng.integers(len(about))] += 1
        for name, share in zip(about, shares, strict=True):
            facts = self.facts(name)
            picked = sorted(self.rng.permutation(len(facts))[:share])
            wanted += [facts[i] for i in picked]
        return tuple(wanted)

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
        care = self.carelessness
        if not self.chance(care.searches_all):
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
            if fact in visible and self.chance(care.states_fact)
        ]
        known = " ".join(fact.sentence() for fact in stated)
        if self.chance(care.gives_up):
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
