"""Segments of a row that go on from the beginning of another one in the same row.

The turns of one conversation are training examples of their own where a template
rewrites earlier turns (Qwen3 drops their thinking): each repeats the history up to its
turn. In one row the longest of them is the trunk, and the others are branches: they
hold only what the trunk does not, and see the trunk's first tokens as if they were
their own. What a token computes is the same as in a row of its own.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


class Branches(NamedTuple):
    """What the tokens of packed rows see besides their own segment; [B, T] each.

    Attributes:
      parents: the segment that a token's segment goes on from; 0 where there is none.
        It lies before the branch in the row.
      cuts: how many of the parent's first tokens are seen.
      positions: places in the text, from 0 at the parent's first token.
    """

    parents: Int[Array, "B T"]
    cuts: Int[Array, "B T"]
    positions: Int[Array, "B T"]


def visible(
    segments: tuple[Int[Array, "B T"], Int[Array, "B S"]],
    queries: Branches,
    keys: Branches,
    window: int = 0,
) -> Bool[Array, "B T S"]:
    """Which keys a query sees, apart from causality in the row.

    Args:
      segments: of queries and keys.
      window: most positions, its own included, that a query sees; 0 means all.
    """
    own, theirs = segments[0][:, :, None], segments[1][:, None, :]
    place = keys.positions[:, None, :]
    parent = queries.parents[:, :, None]
    trunk = (parent > 0) & (theirs == parent) & (place < queries.cuts[:, :, None])
    seen = (own == theirs) | trunk
    if window:
        seen &= queries.positions[:, :, None] - place < window
    return seen


def branch_mask(
    segment_ids: Int[Array, "B T"], branches: Branches, window: int = 0
) -> Bool[Array, "B T T"]:
    """The dense form, for ``models.attention.full_attention``."""
    length = segment_ids.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))
    return causal & visible((segment_ids, segment_ids), branches, branches, window)
