"""Two whole iterations in the small world, on a laptop.

The small world is an encyclopedia of a country that does not exist, with a model of
0.8 million parameters that was trained on written-out examples of the three roles; both
come with the package. Everything else is the real program: two processes, search,
judge, GRPO, checkpoints. Only the sizes differ.

Hardware: two CPU cores and 6 GB of memory, or any GPU (then both processes share it).
Expect: a screen with rewards, a table per stage, a summary, `runs/tiny/report.html`.

    python scripts/train.py --config tiny
"""

from dataclasses import replace

from retrieval.config import RetrievalConfig
from rl.engine.config import EngineConfig
from rl.learner.config import UpdateConfig
from rl.learner.optimizer import OptimizerConfig
from rl.records import SamplingParams
from scope_jax.config import (
    CheckpointConfig,
    Config,
    DocumentsConfig,
    EvaluationConfig,
    ModelConfig,
    StageConfig,
    TasksConfig,
    solver_stage,
)
from scope_jax.inference import InferenceConfig
from scope_jax.method.challenger import ChallengerConfig
from scope_jax.method.judge import JudgeConfig
from scope_jax.method.judge_bias import JudgeBias
from scope_jax.method.solver import LengthConfig, SolverConfig
from scope_jax.system.placement import gpus

TURN = SamplingParams(max_new_tokens=96)
LENGTH = 512


def config() -> Config:
    """The method's constants, except where they concern size."""
    # The judge's prompts have some 90 tokens: chunks of 64 would be a quarter padding,
    # and share hardly any beginnings.
    engine = EngineConfig(
        slots=32, max_length=LENGTH, prefill_chunk=32, prefill_rows=16
    )
    return Config(
        name="tiny",
        tool_format="search_r1",
        prompts="small_world",
        iterations=2,
        # The figures of the small world are float32's, on a GPU too.
        model=ModelConfig(path="demo", dtype="float32"),
        documents=DocumentsConfig(rows=200, heldout=240),
        challenger=ChallengerConfig(
            rollouts=4,
            rollout_sampling=SamplingParams(
                temperature=0.7, top_p=0.9, max_new_tokens=TURN.max_new_tokens
            ),
            rollout_context_tokens=LENGTH,
            rollout_tokens_tasks=TURN.max_new_tokens,
        ),
        judge=JudgeConfig(
            grade_tokens=96,
            rubric_tokens=128,
            rubric_tokens_tasks=128,
            gate_tokens=64,
            bias=JudgeBias(length_scale=40),
        ),
        solver=SolverConfig(length=LengthConfig(soft=24, hard=48)),
        tasks=TasksConfig(
            target=128,
            prompts_per_batch=96,
            max_batches=3,
            samples=2,
            sub_batch=32,
            max_context_tokens=LENGTH,
            # Cooler than in training: a model this small asks for facts that are none.
            sampling=replace(TURN, temperature=0.3),
        ),
        challenger_train=_small(StageConfig()),
        solver_train=replace(
            _small(solver_stage()), steps=16, prompts_per_step=16, group_size=8
        ),
        engine=engine,
        retrieval=RetrievalConfig(passages="demo", top_k=1),
        inference=InferenceConfig(engine=engine),
        placement=gpus(trainer=1, inference=0),
        checkpoint=CheckpointConfig(every=2, permanent_every=10),
        evaluation=EvaluationConfig(count=150, each_iteration=True),
    )


def _small(stage: StageConfig) -> StageConfig:
    """A stage of this size. Small models tolerate, and need, a larger learning rate.

    The small world's matrices are three times as large as Adam would have made them, so
    that a step of 1e-4 would be a third of what it is elsewhere.
    """
    return replace(
        stage,
        steps=8,
        prompts_per_step=8,
        group_size=4,
        sampling=TURN,
        max_prompt_tokens=256,
        max_response_tokens=LENGTH,
        max_context_tokens=LENGTH,
        optimizer=OptimizerConfig(learning_rate=3e-4),
        update=UpdateConfig(length=LENGTH, rows=4, capacity=16),
    )
