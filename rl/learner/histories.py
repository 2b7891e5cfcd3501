"""Which training examples share a row's tokens: the turns of a conversation.

A template that rewrites earlier turns makes an example of each turn, with the history
in front. The last one that is kept is the trunk; the others become branches of it, and
hold only what they don't share (``models.branches``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rl.records import Datum


@dataclass(frozen=True)
class Part:
    """A datum in a row, or what of it its trunk does not hold.

    Attributes:
      index: of the datum.
      first: its first position in the row; those before it are the trunk's. 0: it has
        all of its own.
    """

    index: int
    first: int = 0

    def size(self, datums: Sequence[Datum]) -> int:
        """Positions that it takes."""
        return len(datums[self.index].ids) - 1 - self.first


Bundle = tuple[Part, ...]
"""What must lie in one row: a trunk, then its branches."""


def bundles(datums: Sequence[Datum], length: int, *, share: bool) -> list[Bundle]:
    """Returns each datum once, with those that it shares its history with.

    Args:
      datums: sorted by uid and turn.
      length: positions of a row; turns that don't fit beside their trunk are trunks of
        those that come before them.
      share: whether anything is shared.
    """
    if not share:
        return [(Part(index),) for index in range(len(datums))]
    found: list[Bundle] = []
    current: list[Part] = []
    for index in reversed(range(len(datums))):
        if current:
            trunk = datums[current[0].index]
            part = Part(index, _shared(trunk, datums[index]))
            used = sum(one.size(datums) for one in current)
            fits = used + part.size(datums) <= length
            if trunk.uid == datums[index].uid and part.first and fits:
                current.append(part)
                continue
            found.append(tuple(current))
        current = [Part(index)]
    return [*found, tuple(current)][::-1] if current else found[::-1]


def _shared(trunk: Datum, datum: Datum) -> int:
    """The first position of a datum that its trunk does not hold.

    Position t holds id t and predicts id t + 1: the branch begins with the last id that
    both have, and before the first one that is sampled or trained on.
    """
    same = next(
        (
            t
            for t, (a, b) in enumerate(zip(trunk.ids, datum.ids, strict=False))
            if a != b
        ),
        min(len(trunk.ids), len(datum.ids)),
    )
    masks = zip(datum.loss_mask, datum.sampled_mask, strict=True)
    own = next((t for t, masked in enumerate(masks) if any(masked)), len(datum.ids))
    return max(min(same, own) - 1, 0)
