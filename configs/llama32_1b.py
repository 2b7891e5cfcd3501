"""Llama-3.2-1B-Instruct on one card of 24 GB, with adapters of rank 32.

As `qwen3_1_7b`, whose docstring says how one model plays all roles, with search tags
and whole conversations as training rows: this template strips nothing. A model of this
size judges badly: read its grades before trusting a reward.

Hardware: one GPU of 24 GB or more. `--memory 48` or `--memory 80` chooses sizes for a
larger one, and whether whole weights are trained.
Input: passages (`--retrieval.passages`) in any form of docs/your-text.md. Build the
index first: `scripts/build_index.py --passages FILE --encoder transformer
--encoder-path intfloat/e5-base-v2`.
Expect: three iterations of 10 Challenger steps (16 x 8 rollouts), up to 320 tasks and
10 Solver steps (32 x 8 rollouts). Not measured here yet: the plan is derived.

    python scripts/train.py --config llama32_1b --retrieval.passages FILE
"""

from dataclasses import replace

from configs import qwen3_1_7b
from rl.learner.losses import LossConfig
from scope_jax.config import Config, ModelConfig, StageConfig
from scope_jax.method.judge import JudgeConfig


def config() -> Config:
    """`qwen3_1_7b` with another model, another judge and the usual loss."""
    base = qwen3_1_7b.config()
    return replace(
        base,
        name="llama32_1b",
        tool_format="search_r1",
        model=ModelConfig(path="meta-llama/Llama-3.2-1B-Instruct"),
        judge=JudgeConfig(),
        challenger_train=_whole(base.challenger_train),
        solver_train=_whole(base.solver_train),
    )


def _whole(stage: StageConfig) -> StageConfig:
    """Rows of whole conversations, every token with the same weight."""
    usual = LossConfig(clip_high=stage.loss.clip_high)
    return replace(stage, loss=usual)
