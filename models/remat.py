"""What a block keeps for the backward pass; the rest is recomputed."""

from typing import Any, Literal

import jax

from models.blocked_attention import SAVED

Remat = Literal["none", "block", "attention", "dots"]

_SAVE_ATTENTION = jax.checkpoint_policies.save_only_these_names(SAVED)
# What is kept inside a block; "none" keeps everything and needs no policy.
REMAT_POLICIES: dict[str, Any] = {
    "block": jax.checkpoint_policies.nothing_saveable,
    "attention": _SAVE_ATTENTION,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable, _SAVE_ATTENTION
    ),
}
