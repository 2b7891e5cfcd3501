"""Tasks of the small world: forms with blanks, how they are read, what answers them.

    Report: Bakorn's guild is _, Bakorn's twin is a town, that town's river is _.

A blank ``_`` is to be filled. ``a town`` stands for an entity that is described and not
named: it has to be found before what is asked about ``that town``, which is always the
one that was described last.

Because the facts are known, the true score of an answer is a number and not an opinion:
the share of wanted facts that it states (``true_score``).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from scope_jax.small_world.world import (
    VALUE_KINDS,
    Entity,
    Fact,
    Split,
    World,
    generate,
)

TASK_OPENINGS = {
    "long_form_qa": "Explain",
    "planning": "Plan",
    "short_form_qa": "Say",
    "summarization": "Sum up",
    "writing": "Report",
}
LONG_TYPES = tuple(name for name in TASK_OPENINGS if name != "short_form_qa")
_STATED = re.compile(r"(\w+)'s (\w+) is (\w+)")
_WANTED = re.compile(r"(\w+)'s (\w+)(?: is|:) (\w+)")
_ASKED = re.compile(
    r"(?:that (?P<that>\w+)|(?P<name>[A-Z]\w*(?: \w+)?))'s (?P<relation>\w+) is "
    r"(?:_|an? (?P<described>\w+))"
)

Flaw = Literal["", "vague", "impossible", "repeated"]


@dataclass(frozen=True)
class Subject:
    """An entity of a task and what is wanted of it.

    Attributes:
      name: of the entity.
      facts: the wanted ones; none for one that only leads on.
      via: the fact of the subject before it that names it, if it is described.
      vague: words in the place of its name, such as ``The river``; nothing leads there.
    """

    name: str
    facts: tuple[Fact, ...]
    via: Fact | None = None
    vague: str = ""


@dataclass(frozen=True)
class WorldTask:
    """A task whose wanted facts are known."""

    type: str
    subjects: tuple[Subject, ...]

    @property
    def text(self) -> str:
        """The task as the Solver reads it."""
        parts = []
        words = ""
        for subject in self.subjects:
            if subject.via:
                kind = VALUE_KINDS[subject.via.relation]
                found = with_article(kind)
                parts.append(f"{words}'s {subject.via.relation} is {found}")
                words = f"that {kind}"
            else:
                words = subject.vague or subject.name
            parts += [f"{words}'s {fact.relation} is _" for fact in subject.facts]
        return f"{TASK_OPENINGS[self.type]}: {', '.join(parts)}."

    @property
    def facts(self) -> tuple[Fact, ...]:
        """All wanted facts, in order."""
        return tuple(fact for subject in self.subjects for fact in subject.facts)


@dataclass(frozen=True)
class Blank:
    """A blank of a task's text, resolved in the world.

    Attributes:
      fact: the wanted fact, None if there is none.
      flaw: why not: ``vague`` (its entity is neither named nor described),
        ``impossible`` (no such fact), ``repeated`` (wanted before), or nothing.
      hops: documents to read one after another before it can be filled.
    """

    fact: Fact | None
    flaw: Flaw
    hops: int


def read_task(world: World, text: str) -> tuple[Blank, ...]:
    """Every blank of a task, which a model may have written."""
    blanks: list[Blank] = []
    described = described_kind = ""
    depth = 0
    seen: set[tuple[str, str]] = set()
    for found in _ASKED.finditer(text):
        that, relation = found["that"], found["relation"]
        name = found["name"] or (described if that == described_kind else "")
        hops = depth + 1 if that else 1
        value = world.values.get((name, relation))
        if found["described"]:
            described, described_kind, depth = value or "", found["described"], hops
            continue
        flaw: Flaw = ""
        if not that and name not in world.by_name:
            flaw = "vague"
        elif value is None:
            flaw = "impossible"
        elif (name, relation) in seen:
            flaw = "repeated"
        fact = Fact(name, relation, value) if value and not flaw else None
        seen.add((name, relation))
        blanks.append(Blank(fact, flaw, hops))
    return tuple(blanks)


def heldout_tasks(n: int, seed: int, split: Split = "test") -> list[WorldTask]:
    """``n`` random tasks about entities that neither training nor warm start reads.

    They want three facts each, of one, two and three entities in turn: a chain in which
    each is named by a fact of the one before, so that it takes as many searches. In
    half of the chains the later entities are described and not named.
    """
    world = generate()
    rng = np.random.default_rng([seed, 1])
    starts = world.parts[split]
    tasks = []
    for index in range(n):
        chain: list[Entity] = [starts[rng.integers(len(starts))]]
        links: list[Fact | None] = [None]
        described = rng.random() < 0.5
        while len(chain) < index % 3 + 1:
            known = {entity.name for entity in chain}
            onward = [fact for fact in chain[-1].facts if fact.value not in known]
            link = onward[rng.integers(len(onward))]
            chain.append(world.by_name[link.value])
            links.append(link if described else None)
        subjects = []
        for place, (entity, link) in enumerate(zip(chain, links, strict=True)):
            leads = links[place + 1] if place + 1 < len(chain) else None
            free = [fact for fact in entity.facts if fact is not leads]
            share = 3 // len(chain) + (place < 3 % len(chain))
            picked = sorted(rng.permutation(len(free))[:share])
            subjects.append(Subject(entity.name, tuple(free[i] for i in picked), link))
        tasks.append(WorldTask(LONG_TYPES[rng.integers(4)], tuple(subjects)))
    return tasks


def stated_facts(answer: str) -> dict[tuple[str, str], set[str]]:
    """Every (entity, relation) that ``answer`` speaks of, with the values it gives."""
    found: dict[tuple[str, str], set[str]] = {}
    for entity, relation, value in _STATED.findall(answer):
        found.setdefault((entity, relation), set()).add(value)
    return found


def with_article(kind: str) -> str:
    """``a town``, ``an event``."""
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def rubric_text(fact: Fact) -> str:
    """The rubric that asks for a fact.

    In other words than an answer's (``is``): whoever looks for the fact in the answer
    must not find it in the rubric.
    """
    return f"Identifies {fact.entity}'s {fact.relation}: {fact.value}."


def rubric_facts(rubric: str) -> list[Fact]:
    """Every fact that a rubric asks for, in these words or an answer's."""
    return [Fact(*found) for found in dict.fromkeys(_WANTED.findall(rubric))]


def true_score(answer: str, facts: Sequence[Fact]) -> float:
    """Share of ``facts`` that ``answer`` states; naming two values states neither."""
    if not facts:
        raise ValueError("facts is empty: a task wants at least one fact")
    stated = stated_facts(answer)
    right = sum(stated.get((f.entity, f.relation)) == {f.value} for f in facts)
    return right / len(facts)
