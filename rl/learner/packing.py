"""Datums into rows of fixed length: several per row, told apart by segment ids.

A datum (one training example) of n ids fills n - 1 positions: position t holds
``ids[t]`` and everything that belongs to the token it predicts, ``ids[t + 1]`` (target,
masks, log-probs, weight).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rl.learner import histories
from rl.learner.losses import LossConfig, token_weights
from rl.records import Datum

TOKEN_MEAN = LossConfig()
INTS = ("tokens", "targets", "positions", "segment_ids", "loss_mask", "sampled_mask")
BRANCHES = ("parents", "cuts")
FLOATS = ("sampler_logprobs", "advantages", "weights")


@dataclass(frozen=True, kw_only=True)
class PackedBatch:
    """One optimizer batch as micro-batches, on the host.

    Attributes:
      arrays: [M, R, T] each: ``tokens``, ``targets``, ``positions`` (from 0 in every
        segment), ``segment_ids`` (0 is padding), ``loss_mask``, ``sampled_mask``
        (int32), ``sampler_logprobs``, ``advantages``, ``weights`` (float32; the weight
        of each token's loss, 0 outside it); those of ``extra_arrays``; and ``parents``
        and ``cuts`` of ``models.branches`` where histories are shared, in which case a
        branch's positions go on from its trunk's.
      num_micro: micro-batches in use; the others up to M are empty.
      dropped: (uid, turn, ids) of each datum that is longer than a row.
    """

    arrays: dict[str, np.ndarray]
    num_micro: int
    dropped: tuple[tuple[str, int, int], ...]

    @property
    def fill(self) -> float:
        """Share of the positions in use that hold a token."""
        used = self.arrays["segment_ids"][: self.num_micro]
        return float((used > 0).mean()) if used.size else 0.0


def uid_order(uid: str) -> tuple:
    """Sorting key: the uid with its numbers compared as numbers."""
    return tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in uid.split("/"))


def datum_order(datum: Datum) -> tuple:
    """Sorting key: uid, then turn."""
    return (*uid_order(datum.uid), datum.turn)


def pack(
    datums: Sequence[Datum],
    *,
    rows: int,
    length: int,
    capacity: int = 1,
    loss: LossConfig = TOKEN_MEAN,
    full_batch: int = 0,
    logit_cost: float = 0.0,
    one_per_row: bool = False,
    share_history: bool = False,
) -> PackedBatch:
    """Returns ``datums`` packed into few rows, the same whatever order they come in.

    Rows of similar cost share a micro-batch, because its devices wait for each other.

    Args:
      datums: of one optimizer batch. One of more than ``length + 1`` ids is left out
        and reported, never cut.
      rows: R, rows per micro-batch.
      length: T, positions per row.
      capacity: M is the number of micro-batches needed, rounded up to a multiple of
        this, so that batches of similar size share a compiled program.
      loss: says how tokens are weighted, see ``losses.token_weights``; dropped datums
        do not count.
      full_batch: datums of a full optimizer batch, see ``losses.token_weights``.
      logit_cost: what a token in the loss costs, in pairs of tokens that attend.
      one_per_row: a row for each datum, for attention without segments.
      share_history: what turns of a conversation have in common is there once.

    Raises:
      ValueError: if a datum's fields don't fit together.
    """
    for datum in datums:
        _check(datum)
    ordered = sorted(datums, key=datum_order)
    kept = [d for d in ordered if len(d.ids) - 1 <= length]
    dropped = [d for d in ordered if len(d.ids) - 1 > length]
    bundles = histories.bundles(kept, length, share=share_history)
    bins = [[index] for index in range(len(bundles))]
    if not one_per_row:
        sizes = [sum(part.size(kept) for part in bundle) for bundle in bundles]
        bins = _bins(sizes, length)
    costs = [_cost(bundle, kept, logit_cost) for bundle in bundles]
    bins.sort(key=lambda members: -sum(costs[i] for i in members))
    num_micro = -(-len(bins) // rows)
    micro = max(-(-num_micro // capacity), 1) * capacity
    loss_tokens = np.array([sum(d.loss_mask) for d in kept])
    weights = token_weights(loss_tokens, loss, full_batch=full_batch)
    extra = extra_arrays(kept, loss)
    likelihood = _likelihood_weights(kept, loss_tokens, loss)
    ints = (*INTS, *(BRANCHES if share_history else ()))
    arrays = {name: np.zeros((micro * rows, length), np.int32) for name in ints}
    for name in (*FLOATS, *extra):
        arrays[name] = np.zeros((micro * rows, length), np.float32)
    for row, members in enumerate(bins):
        start = 0
        placed = _placed([bundles[member] for member in members])
        for segment, (part, trunk) in enumerate(placed, start=1):
            index, stop = part.index, start + part.size(kept)
            fields = _fields(kept[index]) | {"segment_ids": segment}
            fields |= {"parents": trunk, "cuts": part.first}
            fields["weights"] = fields["loss_mask"] * weights[index]
            if extra:
                fields["likelihood_weights"] = fields["loss_mask"] * likelihood[index]
                fields |= _extra_fields(kept[index], fields["loss_mask"])
            for name, into in arrays.items():
                values = fields[name]
                into[row, start:stop] = (
                    values[part.first :] if np.ndim(values) else values
                )
            start = stop
    return PackedBatch(
        arrays={k: v.reshape(micro, rows, length) for k, v in arrays.items()},
        num_micro=num_micro,
        dropped=tuple((d.uid, d.turn, len(d.ids)) for d in dropped),
    )


def _placed(bundles: Sequence[histories.Bundle]) -> list[tuple[histories.Part, int]]:
    """A row's parts in order, each with its trunk's segment; 0: it has none."""
    found: list[tuple[histories.Part, int]] = []
    for bundle in bundles:
        trunk = len(found) + 1
        found += [(part, trunk if part.first else 0) for part in bundle]
    return found


def _cost(
    bundle: histories.Bundle, datums: Sequence[Datum], logit_cost: float
) -> float:
    """What a bundle costs, in pairs of tokens that attend."""
    cost = 0.0
    for part in bundle:
        datum = datums[part.index]
        pairs = (len(datum.ids) ** 2 - part.first**2) / 2
        cost += pairs + logit_cost * sum(datum.loss_mask)
    return cost


def extra_arrays(datums: Sequence[Datum], loss: LossConfig) -> tuple[str, ...]:
    """Returns the arrays that only some losses read: none, unless a setting asks.

    ``stored_logprobs`` is there for a batch with rollouts of an earlier step, which
    another program trains on.
    """
    names = []
    if loss.distillation:
        names += ["teacher_logprobs", "teacher_weights"]
    if loss.policy == "nft":
        names += ["outcomes", "group_rates"]
    if loss.likelihood:
        names += ["likelihood_weights"]
    if any(datum.old_logprobs is not None for datum in datums):
        names += ["stored_logprobs", "stored_mask"]
    return tuple(names)


def _extra_fields(datum: Datum, mask: np.ndarray) -> dict[str, Any]:
    """Returns what a datum puts into the extra arrays, by name."""
    none = (np.nan,) * len(datum.ids)
    teacher, old = (
        np.asarray(none if given is None else given, np.float64)[1:]
        for given in (datum.teacher_logprobs, datum.old_logprobs)
    )
    return {
        "teacher_logprobs": np.nan_to_num(teacher, nan=0.0),
        "teacher_weights": mask * np.isfinite(teacher) * datum.teacher_weight,
        "outcomes": datum.outcome,
        "group_rates": datum.group_rate,
        "stored_logprobs": np.nan_to_num(old, nan=0.0),
        "stored_mask": np.isfinite(old),
    }


def _likelihood_weights(
    datums: Sequence[Datum], tokens: np.ndarray, loss: LossConfig
) -> np.ndarray:
    """Returns each datum's weight of a token's likelihood.

    They are averaged as the loss is, over the datums that have a part in the term.
    """
    own = np.array([datum.likelihood_weight for datum in datums], np.float64)
    part = own > 0
    own[part] *= token_weights(tokens[part], loss)
    return own


def _fields(datum: Datum) -> dict[str, Any]:
    """Returns what a datum puts into the arrays, by name."""
    ids, sampled = np.asarray(datum.ids), np.asarray(datum.sampled_mask[1:])
    loss_mask, advantages = np.asarray(datum.loss_mask[1:]), datum.advantage
    if datum.advantages is not None:
        advantages = np.where(loss_mask, datum.advantages[1:], 0)
    return {
        "tokens": ids[:-1],
        "targets": ids[1:],
        "positions": np.arange(len(ids) - 1),
        "loss_mask": loss_mask,
        "sampled_mask": sampled,
        "sampler_logprobs": np.where(sampled, datum.logprobs[1:], 0),
        "advantages": advantages,
    }


def _bins(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Indices of what goes into each row: the better of two ways to fill rows.

    Filling each row as full as possible is best where a row holds many datums; where it
    holds two or three it uses up the short ones, and first-fit decreasing is better.
    """
    both = (_filled(sizes, length), _first_fit_decreasing(sizes, length))
    return min(both, key=len)


def _first_fit_decreasing(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Longest first, each into the first row with room, ties in the given order."""
    free = np.full(len(sizes), length)
    bins: list[list[int]] = []
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        where = int(np.argmax(free >= sizes[index]))
        if where == len(bins):
            bins.append([])
        bins[where].append(index)
        free[where] -= sizes[index]
    return [sorted(members) for members in bins]


def _filled(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Row by row: the longest one left, and those that fill the rest best."""
    left = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    bins = []
    while left:
        room = length - sizes[left[0]]
        # sums[k] has bit n set where some of the first k others are n long together.
        sums = [1]
        for index in left[1:]:
            more = sums[-1] | sums[-1] << sizes[index]
            sums.append(more & ((1 << (room + 1)) - 1))
            if sums[-1] >> room:
                break
        rest = sums[-1].bit_length() - 1
        members = [left[0]]
        for k in range(len(sums) - 1, 0, -1):
            if not sums[k - 1] >> rest & 1:
                members.append(left[k])
                rest -= sizes[left[k]]
        bins.append(sorted(members))
        taken = set(members)
        left = [index for index in left if index not in taken]
    return bins


def _check(datum: Datum) -> None:
    name = f"datum {datum.uid} turn {datum.turn}"
    lengths = [len(datum.loss_mask), len(datum.sampled_mask), len(datum.logprobs)]
    if any(n != len(datum.ids) for n in lengths) or len(datum.ids) < 2:
        raise ValueError(
            f"{name}: {len(datum.ids)} ids (at least 2) with masks and log-probs of "
            f"lengths {lengths}: give all the same length"
        )
    if datum.loss_mask[0] or datum.sampled_mask[0]:
        raise ValueError(f"{name}: its first token cannot be predicted: mask it out")
    sampled = np.asarray(datum.sampled_mask, bool)
    if not np.isfinite(np.asarray(datum.logprobs)[sampled]).all():
        raise ValueError(f"{name}: a sampled token has no finite log-prob")
    if not np.isfinite(datum.advantage):
        raise ValueError(f"{name}: advantage {datum.advantage} is not finite")
    _check_options(datum, name)


def _check_options(datum: Datum, name: str) -> None:
    """Raises where what only some losses read does not fit."""
    for field in ("advantages", "teacher_logprobs", "old_logprobs"):
        given = getattr(datum, field)
        if given is None:
            continue
        if len(given) != len(datum.ids):
            why = f"{len(given)} {field} for {len(datum.ids)} ids"
            raise ValueError(f"{name}: {why}: give one for each")
        counted = np.asarray(given, np.float64)[np.asarray(datum.loss_mask, bool)]
        if np.isinf(counted).any() or (
            field == "advantages" and np.isnan(counted).any()
        ):
            raise ValueError(f"{name}: {field} of a token in the loss is not finite")
    for field in ("teacher_weight", "likelihood_weight"):
        value = getattr(datum, field)
        if not (np.isfinite(value) and value >= 0):
            raise ValueError(f"{name}: {field} {value}: must be finite and at least 0")
    if datum.outcome not in (0, 1) or not 0 <= datum.group_rate <= 1:
        why = f"outcome {datum.outcome}, group_rate {datum.group_rate}"
        raise ValueError(f"{name}: {why}: give 0 or 1, and a share")
