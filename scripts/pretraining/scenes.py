"""What happens in the small world's transcripts: ways through it, drawn at random."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scope_jax.small_world.tasks import LONG_TYPES, Subject, WorldTask
from scope_jax.small_world.world import RELATIONS, Entity, Fact, Split, World

Passage = tuple[str, str]
"""Title and text of a document."""


@dataclass(frozen=True)
class Level:
    """How much a context holds; the curriculum raises it step by step.

    Attributes:
      facts: of a document.
      searches: of a Challenger, at most.
      described: how often a later entity is described and not named.
      recited: documents of a drill.
    """

    facts: int
    searches: int
    described: float
    recited: int


LEVELS = (
    Level(facts=2, searches=1, described=0.0, recited=2),
    Level(facts=3, searches=1, described=0.2, recited=2),
    Level(facts=4, searches=2, described=0.35, recited=2),
    Level(facts=4, searches=3, described=0.35, recited=3),
)


@dataclass(frozen=True)
class Chain:
    """A Challenger's way through the world: what it read, searched and then asked."""

    source: Entity
    searched: tuple[str, ...]
    results: tuple[tuple[Passage, ...], ...]
    task: WorldTask

    @property
    def wanted(self) -> tuple[Fact, ...]:
        """The facts that fill the task's blanks."""
        return self.task.facts


class Scenes:
    """Draws what ``world`` shows at one curriculum ``level``, and ways through it.

    Args:
      splits: the parts of the world in which they begin (and therefore stay).
    """

    def __init__(
        self,
        world: World,
        rng: np.random.Generator,
        level: Level = LEVELS[-1],
        splits: Sequence[Split] = ("train", "dev", "test"),
    ):
        self.world, self.rng, self.level = world, rng, level
        self.entities = [e for split in splits for e in world.parts[split]]

    def chance(self, probability: float) -> bool:
        """True with ``probability``."""
        return self.rng.random() < probability

    def pick(self, items: Sequence):
        """One of ``items``, uniformly."""
        return items[self.rng.integers(len(items))]

    def facts(self, name: str) -> tuple[Fact, ...]:
        """The facts of ``name`` that documents show at this level."""
        return self.world.by_name[name].facts[: self.level.facts]

    def document(self, name: str) -> Passage:
        """Title and text of ``name``'s document at this level."""
        return name, " ".join(fact.sentence() for fact in self.facts(name))

    def retrieve(self, name: str) -> tuple[Passage, ...]:
        """The result of a search for ``name``: its document."""
        return (self.document(name),)

    def missing(self, name: str) -> Fact:
        """A fact that ``name`` could have and has not: no document states it."""
        kind = self.world.by_name[name].kind
        known = {fact.relation for fact in self.world.by_name[name].facts}
        relation = self.pick([r for r in RELATIONS[kind] if r not in known])
        return Fact(name, relation, "")

    def chain(self, *, vague: float = 0.0, in_a_row: bool = False) -> Chain:
        """A way through the world that ends in a task.

        Args:
          vague: how often each entity that is named is left vague instead.
          in_a_row: the facts of an entity that are asked for stand one after another
            in its document, and right before the one that leads on.
        """
        source = self.pick(self.entities)
        count = int(self.rng.choice(3, p=(4 / 9, 3 / 9, 2 / 9))) + 1
        searched: list[str] = []
        here = source.name
        while len(searched) < min(count, self.level.searches):
            known = {source.name, *searched}
            onward = [f.value for f in self.facts(here) if f.value not in known]
            here = self.pick(onward or [f.value for f in source.facts])
            searched.append(here)
        names = [source.name, *dict.fromkeys(searched)]
        task = self._task(names, vague, in_a_row)
        results = tuple(self.retrieve(name) for name in searched)
        return Chain(source, tuple(searched), results, task)

    def _task(self, names: Sequence[str], vague: float, in_a_row: bool) -> WorldTask:
        """A task about some or all of ``names``, each a value of the one before."""
        if self.chance(0.35):
            names = names[1:]
        count = 3 + int(self.rng.choice(3, p=(0.5, 0.3, 0.2)))
        names = names[:count]
        links = [None, *map(self._link, names, names[1:])]
        links = [x if x and self.chance(self.level.described) else None for x in links]
        rooms = [
            self._room(name, link, in_a_row)
            for name, link in zip(names, [*links[1:], None], strict=True)
        ]
        # Facts are dealt out as evenly as chance has it.
        shares = np.ones(len(names), int)
        for place in range(len(names) - 1):  # what only leads on may have none
            leads_on = bool(links[place + 1])
            shares[place] = not leads_on or (bool(rooms[place]) and self.chance(0.6))
        while shares.sum() < count:
            open_places = [
                i for i, room in enumerate(rooms) if len(room) > shares[i] > 0
            ]
            if not open_places:
                break
            shares[self.pick(open_places)] += 1
        subjects = []
        for place, name in enumerate(names):
            size, share = len(rooms[place]), shares[place]
            leads_on = place + 1 < len(names) and links[place + 1]
            picked = sorted(self.rng.permutation(size)[:share])
            if in_a_row:
                # The last ones, where the fact that leads on comes next.
                first = (
                    size - share if leads_on else self.rng.integers(size - share + 1)
                )
                picked = range(first, first + share)
            unnamed = ""
            if not links[place] and not leads_on and self.chance(vague):
                kind = self.world.by_name[name].kind
                unnamed = self.pick((f"The {kind}", "It"))
            wanted = tuple(rooms[place][i] for i in picked)
            subjects.append(Subject(name, wanted, links[place], unnamed))
        return WorldTask(self.pick(LONG_TYPES), tuple(subjects))

    def _room(self, name: str, link: Fact | None, in_a_row: bool) -> Sequence[Fact]:
        """The facts that may be asked of ``name``, where ``link`` leads on from it."""
        facts = self.facts(name)
        if link and in_a_row:
            return facts[: facts.index(link)]
        return [fact for fact in facts if fact is not link]

    def _link(self, name: str, value: str) -> Fact | None:
        """The fact of ``name`` whose value is ``value``."""
        return next((f for f in self.facts(name) if f.value == value), None)
