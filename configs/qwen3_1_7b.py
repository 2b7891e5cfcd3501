"""Qwen3-1.7B on one card of 24 GB, with adapters of rank 32.

One copy of the model plays all roles: policy and previous Solver are adapters of it,
judge and reference are the model itself; the inference process holds the search. The
method's rewards, prompts and rules, with fewer and shorter conversations.

Hardware: one GPU of 24 GB or more. `--memory 48` or `--memory 80` chooses sizes for a
larger one, and whether whole weights are trained.
Input: passages (`--retrieval.passages`) in any form of docs/your-text.md. Build the
index first: `scripts/build_index.py --passages FILE --encoder transformer
--encoder-path intfloat/e5-base-v2`.
Expect: three iterations of 10 Challenger steps (16 x 8 rollouts), up to 320 tasks and
10 Solver steps (32 x 8 rollouts). Not measured here yet: the plan is derived.

    python scripts/train.py --config qwen3_1_7b --retrieval.passages FILE
"""

from dataclasses import replace

from configs import qwen3_8b
from models.lora import LoraConfig
from rl.engine.config import EngineConfig
from rl.records import SamplingParams
from scope_jax.config import Config, ModelConfig, StageConfig
from scope_jax.system.placement import (
    InferenceProcess,
    PlacementConfig,
    TrainerProcess,
)

LENGTH = 8192
TURN = SamplingParams(max_new_tokens=2048)


def config() -> Config:
    """`qwen3_8b` made small enough for one card."""
    base = qwen3_8b.config()
    # A token of context is 115 KB of cache in bfloat16.
    engine = EngineConfig(
        slots=16,
        max_length=LENGTH,
        cache_tokens=65_536,
        prefill_chunk=256,
        page_size=256,
    )
    return replace(
        base,
        name="qwen3_1_7b",
        model=ModelConfig(path="Qwen/Qwen3-1.7B", template="qwen3_strip_thinking"),
        lora=LoraConfig(),
        documents=replace(base.documents, rows=160),
        challenger=replace(base.challenger, rollout_context_tokens=LENGTH),
        tasks=replace(
            base.tasks,
            target=320,
            prompts_per_batch=160,
            sub_batch=64,
            max_context_tokens=LENGTH,
            sampling=TURN,
        ),
        challenger_train=_short(base.challenger_train, prompts=16),
        solver_train=_short(base.solver_train, prompts=32),
        engine=engine,
        retrieval=replace(base.retrieval, passage_batch=64, query_batch=16),
        inference=replace(base.inference, engine=engine),
        placement=PlacementConfig(
            trainer=TrainerProcess(devices="0", memory_fraction=0.84, memory_gb=24.0),
            inference=InferenceProcess(
                devices="0", memory_fraction=0.08, memory_gb=24.0
            ),
        ),
    )


def _short(stage: StageConfig, *, prompts: int) -> StageConfig:
    return replace(
        stage,
        steps=10,
        prompts_per_step=prompts,
        sampling=TURN,
        max_response_tokens=LENGTH - stage.max_prompt_tokens,
        max_context_tokens=LENGTH,
        update=replace(
            stage.update,
            length=LENGTH,
            rows=1,
            mini_batch_rows=prompts * stage.group_size,
        ),
    )
