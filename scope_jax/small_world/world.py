"""The small world: a seeded encyclopedia of a fictional country.

1,200 entities of six kinds (towns, rivers, people, guilds, works, events), one short
document each. A document states four facts, and the value of every fact is the name of
another entity, so that facts point on to further documents and a task needs one to
three searches. Names are invented: nothing can be answered from memory.

    Title: Bakorn
    Bakorn's river is Olela. Bakorn's guild is Tesark. ...

Entities are divided in three: eight of ten to train on, one to develop on, one to test
on. Facts of one part point at entities of the same part, so whoever starts in one never
reads a document of another. The passages file has the training part first.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

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
VALUE_KINDS = {
    name: kind for found in RELATIONS.values() for name, kind in found.items()
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
Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


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
    split: Split

    @property
    def text(self) -> str:
        """The document's text: one line."""
        return " ".join(fact.sentence() for fact in self.facts)


@dataclass(frozen=True)
class World:
    """All entities, in the order of the passages file."""

    entities: tuple[Entity, ...]

    @cached_property
    def by_name(self) -> dict[str, Entity]:
        """Entities by their (unique) name."""
        return {entity.name: entity for entity in self.entities}

    @cached_property
    def parts(self) -> dict[Split, tuple[Entity, ...]]:
        """The entities of each part."""
        return {s: tuple(e for e in self.entities if e.split == s) for s in SPLITS}

    @cached_property
    def values(self) -> dict[tuple[str, str], str]:
        """The value of every fact, by entity and relation."""
        return {(f.entity, f.relation): f.value for e in self.entities for f in e.facts}

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
def generate(
    seed: int = WORLD_SEED, per_kind: int = 200, *, facts_seed: tuple[int, ...] = ()
) -> World:
    """The world of ``seed`` with ``per_kind`` entities of each of the six kinds.

    Args:
      seed: of names, parts and facts.
      per_kind: a multiple of 10.
      facts_seed: of other facts about the same entities. A model that reads worlds
        with ever new facts learns to read and has nothing to remember.
    """
    rng = np.random.default_rng(seed)
    names = {kind: _names(rng, kind, per_kind) for kind in RELATIONS}
    tenth = per_kind // 10
    shares = {"train": (2 * tenth, per_kind), "dev": (0, tenth)}
    shares["test"] = (tenth, 2 * tenth)
    found = {
        (kind, split): names[kind][slice(*shares[split])]
        for kind in RELATIONS
        for split in SPLITS
    }
    if facts_seed:
        rng = np.random.default_rng([seed, *facts_seed])
    entities: list[Entity] = []
    for split in SPLITS:
        order = [(kind, name) for kind in RELATIONS for name in found[kind, split]]
        for choice in rng.permutation(len(order)):
            kind, name = order[choice]
            relations = list(RELATIONS[kind].items())
            facts: list[Fact] = []
            used = {name}
            for picked in rng.permutation(len(relations))[:FACTS_PER_ENTITY]:
                relation, target = relations[picked]
                pool = found[target, split]
                value = name
                while value in used:
                    value = pool[rng.integers(len(pool))]
                used.add(value)
                facts.append(Fact(name, relation, value))
            entities.append(Entity(len(entities), name, kind, tuple(facts), split))
    return World(tuple(entities))
