"""The small world: a seeded encyclopedia of a fictional country.

2,400 entities of six kinds (towns, rivers, people, guilds, works, events), one short
document each. A document states four facts, and the value of every fact is the name of
another entity, so that facts point on to further documents and a task needs one to
three searches. Names are invented: nothing can be answered from memory.

    Title: Bakorn
    Bakorn's river is Olela. Bakorn's guild is Tesark. ...

Because the facts are known, the true score of an answer is a number and not an opinion:
the share of wanted facts that it states (``wanted_facts_stated``).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

FACTS_PER_ENTITY = 4
WORLD_SEED = 7

# kind -> relation -> kind of the value. Every relation word belongs to one kind.
RELATIONS: dict[str, dict[str, str]] = {
    "town": {
        "river": "river",
        "founder": "person",
        "guild": "guild",
        "feast": "event",
        "ballad": "work",
        "twin": "town",
    },
    "river": {
        "source": "town",
        "mouth": "town",
        "ferryman": "person",
        "flood": "event",
        "epic": "work",
        "warden": "guild",
    },
    "person": {
        "birthplace": "town",
        "teacher": "person",
        "masterpiece": "work",
        "patron": "guild",
        "triumph": "event",
        "haunt": "river",
    },
    "guild": {
        "seat": "town",
        "master": "person",
        "rival": "guild",
        "charter": "work",
        "parade": "event",
        "dock": "river",
    },
    "work": {
        "setting": "town",
        "author": "person",
        "sponsor": "guild",
        "theme": "event",
        "sequel": "work",
        "stream": "river",
    },
    "event": {
        "site": "town",
        "hero": "person",
        "host": "guild",
        "chronicle": "work",
        "cause": "event",
        "crossing": "river",
    },
}
# Endings tell a reader the kind of thing; none is the beginning of another.
_ENDINGS = {
    "town": ("orn", "ath", "umb"),
    "river": ("ela", "iva", "oon"),
    "person": ("eris", "ano", "ilo"),
    "guild": ("ark", "osk", "ind"),
    "work": ("eum", "iad", "ode"),
    "event": ("alia", "ost", "uce"),
}
_CONSONANTS = "bcdfghjklmnprstvwz"
_VOWELS = "aeiou"
_HELDOUT_EVERY = 10
_STATED = re.compile(r"(\w+)'s (\w+) is (\w+)")


@dataclass(frozen=True)
class Fact:
    """``entity``'s ``relation`` is ``value``."""

    entity: str
    relation: str
    value: str

    def sentence(self) -> str:
        """The fact as documents and answers state it."""
        return f"{self.entity}'s {self.relation} is {self.value}."


@dataclass(frozen=True)
class Entity:
    """One entry: its document states ``facts`` in this order."""

    index: int
    name: str
    kind: str
    facts: tuple[Fact, ...]
    heldout: bool

    @property
    def text(self) -> str:
        """The document's text: one line."""
        return " ".join(fact.sentence() for fact in self.facts)


@dataclass(frozen=True)
class WorldTask:
    """A task with known wanted facts: for evaluation, and to teach the warm start."""

    text: str
    facts: tuple[Fact, ...]

    @property
    def entities(self) -> tuple[str, ...]:
        """Entities to be searched, in the order in which the task names them."""
        return tuple(dict.fromkeys(fact.entity for fact in self.facts))


@dataclass(frozen=True)
class World:
    """All entities, in the order of the passages file."""

    entities: tuple[Entity, ...]

    @cached_property
    def by_name(self) -> dict[str, Entity]:
        """Entities by their (unique) name."""
        return {entity.name: entity for entity in self.entities}

    @cached_property
    def mentions(self) -> dict[str, tuple[str, ...]]:
        """For every name, the entities whose document mentions it as a value."""
        found: dict[str, list[str]] = {entity.name: [] for entity in self.entities}
        for entity in self.entities:
            for fact in entity.facts:
                found[fact.value].append(entity.name)
        return {name: tuple(dict.fromkeys(names)) for name, names in found.items()}

    def passages(self) -> Iterable[dict[str, str]]:
        """Rows ``{"id", "title", "contents"}`` of the passages file."""
        for entity in self.entities:
            yield {
                "id": f"w{entity.index:04d}",
                "title": entity.name,
                "contents": f"{entity.name}\n{entity.text}",
            }


def _names(rng: np.random.Generator, kind: str, count: int) -> list[str]:
    stems = [c + v + d for c in _CONSONANTS for v in _VOWELS for d in _CONSONANTS]
    every = [stem.capitalize() + end for stem in stems for end in _ENDINGS[kind]]
    return [every[i] for i in rng.permutation(len(every))[:count]]


@lru_cache(maxsize=4)
def generate(seed: int = WORLD_SEED, per_kind: int = 400) -> World:
    """The world of ``seed`` with ``per_kind`` entities of each of the six kinds."""
    rng = np.random.default_rng(seed)
    names = {kind: _names(rng, kind, per_kind) for kind in RELATIONS}
    order = [(kind, name) for kind, found in names.items() for name in found]
    order = [order[i] for i in rng.permutation(len(order))]
    entities = []
    for index, (kind, name) in enumerate(order):
        relations = list(RELATIONS[kind].items())
        facts: list[Fact] = []
        used = {name}
        for choice in rng.permutation(len(relations))[:FACTS_PER_ENTITY]:
            relation, target = relations[choice]
            value = name
            while value in used:
                value = names[target][rng.integers(per_kind)]
            used.add(value)
            facts.append(Fact(name, relation, value))
        heldout = index % _HELDOUT_EVERY == 0
        entities.append(Entity(index, name, kind, tuple(facts), heldout))
    return World(tuple(entities))


TASK_OPENINGS = {
    "long_form_qa": "Explain",
    "planning": "Plan",
    "short_form_qa": "Say",
    "summarization": "Sum up",
    "writing": "Report",
}


def task_text(facts: Sequence[Fact], task_type: str = "writing") -> str:
    """A task that wants ``facts``, as a form with blanks to fill."""
    blanks = ", ".join(f"{fact.entity}'s {fact.relation} is _" for fact in facts)
    return f"{TASK_OPENINGS[task_type]}: {blanks}."


def heldout_tasks(n: int, seed: int) -> list[WorldTask]:
    """``n`` random tasks about entities that no task of the warm start is about.

    They want three facts each, of one, two and three entities in turn: a chain in which
    each is named by a fact of the one before, so that it takes as many searches.
    """
    world = generate()
    rng = np.random.default_rng([seed, 1])
    starts = [entity for entity in world.entities if entity.heldout]
    types = [name for name in TASK_OPENINGS if name != "short_form_qa"]
    tasks = []
    for index in range(n):
        chain = [starts[rng.integers(len(starts))]]
        while len(chain) < index % 3 + 1:
            known = {entity.name for entity in chain}
            onward = [f.value for f in chain[-1].facts if f.value not in known]
            chain.append(world.by_name[onward[rng.integers(len(onward))]])
        wanted: list[Fact] = []
        for position, entity in enumerate(chain):
            share = 3 // len(chain) + (position < 3 % len(chain))
            picked = rng.permutation(len(entity.facts))[:share]
            wanted += [entity.facts[i] for i in sorted(picked)]
        text = task_text(wanted, types[rng.integers(len(types))])
        tasks.append(WorldTask(text, tuple(wanted)))
    return tasks


def stated_facts(answer: str) -> dict[tuple[str, str], set[str]]:
    """Every (entity, relation) that ``answer`` speaks of, with the values it gives."""
    found: dict[tuple[str, str], set[str]] = {}
    for entity, relation, value in _STATED.findall(answer):
        found.setdefault((entity, relation), set()).add(value)
    return found


def wanted_facts_stated(answer: str, facts: Sequence[Fact]) -> float:
    """Share of ``facts`` that ``answer`` states; naming two values states neither."""
    if not facts:
        raise ValueError("facts is empty: a task wants at least one fact")
    stated = stated_facts(answer)
    right = sum(stated.get((f.entity, f.relation)) == {f.value} for f in facts)
    return right / len(facts)
