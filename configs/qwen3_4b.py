"""Qwen3-4B on one card of 24 GB, with adapters of rank 32.

As `qwen3_1_7b`, whose docstring says how one model plays all roles. On 24 GB there are
few slots: rollouts take several times as long as on a larger card.

Hardware: one GPU of 24 GB or more. `--memory 48` or `--memory 80` chooses sizes for a
larger one, and whether whole weights are trained.
Input: passages (`--retrieval.passages`) in any form of docs/your-text.md. Build the
index first: `scripts/build_index.py --passages FILE --encoder transformer
--encoder-path intfloat/e5-base-v2`.
Expect: three iterations of 10 Challenger steps (16 x 8 rollouts), up to 320 tasks and
10 Solver steps (32 x 8 rollouts). Not measured here yet: the plan is derived.

    python scripts/train.py --config qwen3_4b --retrieval.passages FILE
"""

from dataclasses import replace

from configs import qwen3_1_7b
from scope_jax.config import Config, ModelConfig


def config() -> Config:
    """`qwen3_1_7b` with another model."""
    base = qwen3_1_7b.config()
    return replace(
        base,
        name="qwen3_4b",
        model=ModelConfig(path="Qwen/Qwen3-4B", template="qwen3_strip_thinking"),
    )
