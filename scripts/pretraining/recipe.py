"""The warm start's recipe: sizes, how often each job is played, and when.

First the model learns to copy, from a drill and from judging, and then turns to the
jobs themselves. In the cycles that follow, the learning rate rises again and falls, and
more time is spent on what a model this small does worst: tasks whose blanks can be
filled, and grades of answers that hold the right value in the wrong place.
"""

import dataclasses
import itertools

import optax

Weights = tuple[tuple[str, float], ...]
"""Jobs (keys of ``transcripts.JOBS``) and how often each is played."""


def _played(
    *, challenger: float, solver: float, rubric: float, grader: float, recite: float
) -> Weights:
    """Weights of a later cycle, in which the gates need little."""
    return (
        ("challenger", challenger),
        ("solver", solver),
        ("rubric", rubric),
        ("gate_entity", 0.3),
        ("gate_source", 0.7),
        ("grader", grader),
        ("recite", recite),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cycle:
    """Steps in which the learning rate rises once more and falls to 0.

    Attributes:
      steps: how many.
      rate: its highest learning rate, as a share of the first cycle's.
      weights: how often each job is played.
      kinds: of responses that the grader reads (``judging.KINDS``), where others than
        usual.
      complete: share of the Solver's conversations in which it is led to do all
        (``transcripts.Habits``).
    """

    steps: int
    rate: float
    weights: Weights
    kinds: tuple[float, ...] = ()
    complete: float = 0.0


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
      cycles: what follows.
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
    cycles: tuple[Cycle, ...] = (
        Cycle(
            steps=900,
            rate=0.5,
            weights=_played(challenger=6, solver=2.5, rubric=4, grader=9, recite=4),
        ),
        Cycle(
            steps=2200,
            rate=0.8,
            weights=_played(challenger=6, solver=3, rubric=5, grader=7, recite=10),
        ),
        Cycle(
            steps=2600,
            rate=0.8,
            weights=_played(challenger=8, solver=3, rubric=5, grader=9, recite=10),
            kinds=(0.30, 0.08, 0.28, 0.28, 0.06),
        ),
        Cycle(
            steps=1200,
            rate=0.6,
            weights=_played(challenger=7, solver=3, rubric=5, grader=14, recite=8),
            kinds=(0.30, 0.06, 0.33, 0.27, 0.04),
        ),
        Cycle(
            steps=1500,
            rate=0.6,
            weights=_played(challenger=7, solver=9, rubric=5, grader=14, recite=8),
            kinds=(0.30, 0.06, 0.30, 0.30, 0.04),
            complete=0.5,
        ),
    )
    recite_scale: tuple[float, ...] = (1.0, 0.6, 0.3, 0.1)
    value_weight: float = 2.0
    relation_weight: float = 3.0

    @property
    def ends(self) -> list[int]:
        """The step at which each cycle ends, the first one among them."""
        lengths = [self.steps, *(cycle.steps for cycle in self.cycles)]
        return list(itertools.accumulate(lengths))

    def finishing(self, step: int) -> bool:
        """Whether the jobs come before the drill at ``step``."""
        return step >= self.steps - self.finish_steps

    def cycle(self, step: int) -> Cycle | None:
        """The cycle that ``step`` is in; None: the first one."""
        starts = zip(self.cycles, self.ends[:-1], strict=True)
        started = [cycle for cycle, start in starts if step >= start]
        return started[-1] if started else None

    def weights(self, step: int) -> Weights:
        """How often each job is played at ``step``."""
        if cycle := self.cycle(step):
            return cycle.weights
        return self.finish_weights if self.finishing(step) else self.job_weights

    def schedule(self, rate: float) -> optax.Schedule:
        """Warm-up to ``rate``, constant, linear decay; then each cycle's triangle."""
        warmup, ends = self.warmup_steps, self.ends
        parts = [
            optax.linear_schedule(0.0, rate, warmup),
            optax.constant_schedule(rate),
            optax.linear_schedule(rate, 0.0, self.decay_steps),
        ]
        bounds = [warmup, self.steps - self.decay_steps]
        for cycle, start in zip(self.cycles, ends[:-1], strict=True):
            high = rate * cycle.rate
            parts.append(optax.linear_schedule(0.0, high, warmup))
            parts.append(optax.linear_schedule(high, 0.0, max(cycle.steps - warmup, 1)))
            bounds += [start, start + warmup]
        return optax.join_schedules(parts, bounds)
