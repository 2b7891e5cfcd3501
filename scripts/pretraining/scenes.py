"""What happens in the small world's transcripts: ways through it, drawn at random."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scope_jax.small_world.world import Entity, Fact, World, task_text

_TYPES = ("long_form_qa", "planning", "summarization", "writing")


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


class Scenes:
    """Draws what ``world`` shows at one curriculum ``level``, and ways through it."""

    def __init__(
        self, world: World, rng: np.random.Generator, level: Level = LEVELS[-1]
    ):
        self.world, self.rng, self.level = world, rng, level

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
