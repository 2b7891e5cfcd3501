"""Qwen3-8B with JSON tool calls, every constant as in the reference.

The template strips earlier thinking, so every turn is a training row of its own and a
step has several optimizer updates; every row has the same weight. The judge thinks
without being asked to, so its prompts ask for plain reasoning, and its gates get more
tokens.

Hardware: six GPUs of 80 GB: 0 and 1 for inference, 2 to 5 for training. Five:
`--placement.inference.devices 0 --placement.inference.replicas 1
--inference.engine.slots 16 --inference.engine.cache_tokens 98304
--placement.trainer.devices 1,2,3,4`.
Input: passages (`--retrieval.passages`) in any form of docs/your-text.md; the reference
uses Wikipedia of 2018. Build the index first: `scripts/build_index.py --passages
wiki-18.jsonl --encoder transformer --encoder-path intfloat/e5-base-v2`.
Expect: three iterations of 20 Challenger steps (64 x 8 rollouts), up to 5,120 tasks and
20 Solver steps (256 x 8 rollouts). Not measured here yet.

    python scripts/train.py --config qwen3_8b --retrieval.passages wiki-18.jsonl
"""

from dataclasses import replace

from configs import qwen25_7b
from scope_jax.config import Config, ModelConfig, StageConfig
from scope_jax.method.judge import JudgeConfig


def config() -> Config:
    """`qwen25_7b` with another format, thinking, and larger cache."""
    base = qwen25_7b.config()
    # A token of context is 147 KB of cache in bfloat16: 21 GB on each of the trainer's
    # GPUs, 9,216 tokens for each of its 16 slots there.
    return replace(
        base,
        name="qwen3_8b",
        tool_format="tool_call",
        model=ModelConfig(path="Qwen/Qwen3-8B", template="qwen3_strip_thinking"),
        judge=JudgeConfig(thinking=True, gate_tokens=1024),
        challenger_train=_rows_of_turns(base.challenger_train),
        solver_train=_rows_of_turns(base.solver_train),
        engine=replace(base.engine, slots=64, cache_tokens=589_824),
        inference=replace(
            base.inference,
            engine=replace(base.inference.engine, slots=32, cache_tokens=196_608),
        ),
    )


def _rows_of_turns(stage: StageConfig) -> StageConfig:
    """One update per as many rows as the step has rollouts; all rows weigh the same."""
    rows = stage.prompts_per_step * stage.group_size
    return replace(
        stage,
        # The reference's micro-batch is one row in this family (spec 3.9.9).
        loss=replace(stage.loss, aggregation="row_mean", group_rows=1),
        update=replace(stage.update, mini_batch_rows=rows),
    )
