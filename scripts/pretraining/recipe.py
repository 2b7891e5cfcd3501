"""The warm start's recipe: sizes, how often each job is played, and when.

Two cycles. The first learns to copy, from a drill and from judging, and in its last
steps turns to the jobs themselves. The second is shorter, begins at half the rate, and
is spent on what a model this small still does worst: tasks whose blanks can be filled,
and grades of answers that hold the right value in the wrong place.
"""

import dataclasses

import optax

Weights = tuple[tuple[str, float], ...]
"""Jobs (keys of ``transcripts.JOBS``) and how often each is played."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmstartConfig:
    """The warm start's settings.

    Attributes:
      steps: optimizer steps of the first cycle; the learning rate falls linearly over
        the last ``decay_steps`` of them.
      row_tokens: length of a packed row at each curriculum level.
      batch_tokens: tokens per step, at every level.
      learning_rate: of embeddings and norms.
      matrix_learning_rate: of the layers' matrices.
      promote_at: accuracy on copied names at which the next level begins.
      job_weights: how often each job is played, until the last ``finish_steps`` of the
        first cycle.
      finish_weights: how often in those. To copy is learned from drill and judge; only
        then does it pay to practise what a Challenger may choose.
      refine_steps: of the second cycle, in which the rate falls from ``refine_rate``
        times the first one's to 0.
      refine_weights: how often each job is played there.
      recite_scale: factor on the drill's weight at each curriculum level.
      verdict_weight: loss weight of what decides a verdict against 1 for other tokens.
      value_weight: loss weight of a name that must be copied.
      relation_weight: loss weight of what a Challenger asks for, which must be a fact,
        from the last ``finish_steps`` on. Before that, it keeps the model from copying
        well.
    """

    steps: int = 2500
    decay_steps: int = 500
    learning_rate: float = 3e-3
    matrix_learning_rate: float = 0.03
    warmup_steps: int = 50
    batch_tokens: int = 5280
    row_tokens: tuple[int, ...] = (96, 192, 264, 352)
    promote_at: float = 0.85
    seed: int = 0
    hidden_size: int = 128
    intermediate_size: int = 256
    num_layers: int = 3
    num_heads: int = 4
    embed_std: float = 0.5
    verdict_weight: float = 4.0
    job_weights: Weights = (
        ("challenger", 1.5),
        ("solver", 2.0),
        ("rubric", 2.5),
        ("gate_entity", 0.5),
        ("gate_source", 3.0),
        ("grader", 4.0),
        ("recite", 8.0),
    )
    finish_weights: Weights = (
        ("challenger", 4.0),
        ("solver", 2.0),
        ("rubric", 4.0),
        ("gate_entity", 0.5),
        ("gate_source", 1.0),
        ("grader", 7.0),
        ("recite", 8.0),
    )
    finish_steps: int = 1000
    refine_steps: int = 900
    refine_rate: float = 0.5
    refine_weights: Weights = (
        ("challenger", 6.0),
        ("solver", 2.5),
        ("rubric", 4.0),
        ("gate_entity", 0.3),
        ("gate_source", 0.7),
        ("grader", 9.0),
        ("recite", 4.0),
    )
    recite_scale: tuple[float, ...] = (1.0, 0.6, 0.3, 0.1)
    value_weight: float = 2.0
    relation_weight: float = 3.0

    @property
    def total_steps(self) -> int:
        """Of both cycles."""
        return self.steps + self.refine_steps

    def finishing(self, step: int) -> bool:
        """Whether the jobs come before the drill at ``step``."""
        return step >= self.steps - self.finish_steps

    def weights(self, step: int) -> Weights:
        """How often each job is played at ``step``."""
        if step >= self.steps:
            return self.refine_weights
        return self.finish_weights if self.finishing(step) else self.job_weights

    def schedule(self, rate: float) -> optax.Schedule:
        """Warm-up to ``rate``, constant, linear decay; then once more, and lower."""
        refine = rate * self.refine_rate
        return optax.join_schedules(
            [
                optax.linear_schedule(0.0, rate, self.warmup_steps),
                optax.constant_schedule(rate),
                optax.linear_schedule(rate, 0.0, self.decay_steps),
                optax.linear_schedule(0.0, refine, self.warmup_steps),
                optax.linear_schedule(
                    refine, 0.0, max(self.refine_steps - self.warmup_steps, 1)
                ),
            ],
            [
                self.warmup_steps,
                self.steps - self.decay_steps,
                self.steps,
                self.steps + self.warmup_steps,
            ],
        )
