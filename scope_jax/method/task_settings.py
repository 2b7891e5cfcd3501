"""Settings of source documents and of task creation (spec 11)."""

from dataclasses import dataclass

from models.errors import UserError
from models.ranges import Count, CountOrZero, Share, check_fields
from rl.records import SamplingParams


@dataclass(frozen=True, kw_only=True)
class DocumentsConfig:
    """Documents that the Challenger starts from (spec 11.1)."""

    rows: Count = 2000
    """Challenger prompts drawn for stage 1 of an iteration."""
    max_tokens: Count = 256
    """Tokens (of the policy's tokenizer) to which a source document is truncated."""
    heldout: CountOrZero = 0
    """The last so many passages of the corpus are kept for evaluation: never a source
    document. Searches still find them."""

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class TasksConfig:
    """Stage 2: how many tasks, from how many prompts, and which are kept (spec 11)."""

    file: str = ""
    """File of tasks with rubrics that take the place of task creation: Parquet of a run
    (`tasks/iter_1.parquet`), or JSON lines with `task`, `type`, `rubrics` and, where
    the answer is known, `target`; or rows of a benchmark (docs/evaluation.md), which
    may be NAME=FILE. An iteration takes the next `target` of them, from the start again
    after the last one. Empty: the Challenger writes tasks."""
    target: Count = 5120
    """Number of tasks wanted; creation stops as soon as it is reached."""
    prompts_per_batch: Count = 2000
    """Challenger prompts per batch."""
    max_batches: Count = 20
    """Batches after which creation ends, however many tasks were found."""
    samples: Count = 4
    """Challenger conversations per prompt."""
    solver_rollouts: Count = 4
    """Rollouts of the previous Solver per task; their mean score is its difficulty."""
    sub_batch: Count = 500
    """Tasks that go through gates, rubrics, rollouts and grading at the same time."""
    low: Share = 0.2
    """Lowest mean rubric score that is kept (inclusive)."""
    high: Share = 0.8
    """Highest mean rubric score that is kept (inclusive)."""
    max_per_document: Count = 1
    """Tasks kept per Challenger prompt: the first ones, in the order of samples."""
    max_turns: Count = 10
    """Maximum number of assistant turns in a conversation that writes a task."""
    max_context_tokens: Count = 32768
    """Such a conversation ends when another whole turn no longer fits."""
    sampling: SamplingParams = SamplingParams(max_new_tokens=8192)
    """How the Challenger samples tasks; `max_new_tokens` is per turn."""

    def __post_init__(self):
        check_fields(self)
        if self.low > self.high:
            raise UserError(
                f"low={self.low}: exceeds high={self.high}, so no task could be kept: "
                "lower the first or raise the second"
            )
