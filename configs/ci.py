"""The smallest version of `tiny`: the same code in every stage, less of everything.

Hardware: two CPU cores and 4 GB of memory.
Expect: two iterations within a minute; the rewards and scores are meaningless.

    python scripts/train.py --config ci
"""

from dataclasses import replace

from configs import tiny
from scope_jax.config import Config, StageConfig


def config() -> Config:
    """Fewer steps, prompts, tasks and slots than `tiny`; nothing else."""
    base = tiny.config()
    # Every decode step pays for all slots, and few conversations are played at once.
    engine = replace(base.engine, slots=8, prefill_rows=4)
    return replace(
        base,
        name="ci",
        engine=engine,
        inference=replace(base.inference, engine=engine),
        documents=replace(base.documents, rows=16),
        challenger=replace(base.challenger, rollouts=2),
        tasks=replace(
            base.tasks, target=4, prompts_per_batch=8, samples=1, solver_rollouts=2
        ),
        challenger_train=_small(base.challenger_train),
        solver_train=_small(base.solver_train),
        evaluation=replace(base.evaluation, count=4),
    )


def _small(stage: StageConfig) -> StageConfig:
    return replace(stage, steps=2, prompts_per_step=2, group_size=2)
