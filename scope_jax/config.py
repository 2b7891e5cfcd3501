"""One run's settings: the packages' own dataclasses, composed into a frozen `Config`.

Each package owns the settings of its own room; this module adds what belongs to none of
them (stages, tasks, checkpoints, tracking) and puts everything together. The string
below a field is its documentation: ``--help`` prints it. The defaults are the method's
constants as the reference uses them for Qwen2.5-7B; files of ``configs/`` say only what
differs.
"""

from dataclasses import dataclass, field

from models.errors import UserError
from retrieval.config import RetrievalConfig
from rl.engine_config import EngineConfig
from rl.losses import LossConfig
from rl.optimizer import OptimizerConfig
from rl.records import SamplingParams
from rl.update_config import UpdateConfig
from scope_jax.challenger import ChallengerConfig
from scope_jax.compat import Compat
from scope_jax.inference import InferenceConfig
from scope_jax.judge import JudgeConfig
from scope_jax.placement import PlacementConfig
from scope_jax.solver import SolverConfig
from scope_jax.types import ToolFormat


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The base model M0: judge, KL reference, and where both policies start from."""

    path: str
    """Folder in Hugging Face format, name on the hub, or `demo` (the small world's
    model, shipped with the package)."""
    template: str | None = None
    """Chat template that replaces the tokenizer's own: a file, or the name of one that
    is shipped in `models/templates`. None: the tokenizer's."""


@dataclass(frozen=True, kw_only=True)
class DocumentsConfig:
    """Documents that the Challenger starts from (spec 11.1)."""

    rows: int = 2000
    """Challenger prompts drawn for stage 1 of an iteration."""
    max_tokens: int = 256
    """Tokens (of the policy's tokenizer) that a source document is cut to."""


@dataclass(frozen=True, kw_only=True)
class TasksConfig:
    """Stage 2: how many tasks, from how many prompts, which ones are kept (spec 11)."""

    target: int = 5120
    """Tasks wanted; creation stops as soon as they are there."""
    prompts_per_batch: int = 2000
    """Challenger prompts of one batch."""
    max_batches: int = 20
    """Batches after which creation ends, whatever was found."""
    samples: int = 4
    """Challenger conversations per prompt."""
    solver_rollouts: int = 4
    """Rollouts of the previous Solver per task; their mean score is its difficulty."""
    sub_batch: int = 500
    """Tasks that are under way in gates, rubrics, rollouts and grading at one time."""
    low: float = 0.2
    """Lowest mean rubric score that is kept, this value included."""
    high: float = 0.8
    """Highest mean rubric score that is kept, this value included."""
    max_per_document: int = 1
    """Tasks kept per Challenger prompt, the first ones in row order."""
    max_turns: int = 10
    """Assistant turns of a conversation that writes a task."""
    max_context_tokens: int = 32768
    """Such a conversation ends where a whole turn no longer fits."""
    sampling: SamplingParams = SamplingParams(max_new_tokens=8192)
    """How the Challenger samples tasks; `max_new_tokens` is per turn."""


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One training stage: GRPO on one policy (spec 12)."""

    steps: int = 20
    """Training steps per iteration."""
    prompts_per_step: int = 64
    """Prompts of a step."""
    group_size: int = 8
    """Rollouts per prompt; their mean reward is the baseline."""
    sampling: SamplingParams = SamplingParams(max_new_tokens=8192)
    """How the policy samples; `max_new_tokens` is per turn."""
    max_prompt_tokens: int = 1024
    """The Solver's tasks with longer prompts are left out; a longer prompt of the
    Challenger, whose documents are cut to a fixed length, is refused."""
    max_response_tokens: int = 8192
    """All tokens after the prompt, tool results included, that are trained on."""
    max_context_tokens: int = 16384
    """Prompt and response; a conversation that reaches it ends with reason `length`."""
    loss: LossConfig = LossConfig()
    """Policy loss and KL penalty."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """AdamW."""
    update: UpdateConfig = UpdateConfig()
    """Shapes and arithmetic of the update."""

    def __post_init__(self):
        if self.update.temperature != self.sampling.temperature:
            raise UserError(
                f"sampling.temperature {self.sampling.temperature}: is not "
                f"update.temperature {self.update.temperature}, so the policy that is "
                "trained is not the one that is sampled: make them equal"
            )


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When a training stage is saved. Its last step always is."""

    every: int = 2
    """Steps between checkpoints of which only the newest is kept."""
    permanent_every: int = 10
    """Steps between checkpoints that are kept for good."""


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """What is written and shown while a run goes on; never changes what is computed."""

    tensorboard: bool = True
    """Write TensorBoard event files to `tb/` of the run folder."""
    progress: bool = True
    """Progress bars on a terminal. Without them, and where the output is not a
    terminal, a line per step is logged."""


def solver_stage() -> StageConfig:
    """Stage 3 as the method has it; stage 1 is `StageConfig()`."""
    return StageConfig(
        prompts_per_step=256,
        max_prompt_tokens=2048,
        loss=LossConfig(clip_high=0.28),
    )


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that defines a run. Saved as `config.json` in the run folder."""

    name: str
    """Name of the configuration; the run folder defaults to `runs/NAME`."""
    seed: int = 42
    """Seed of everything random: prompts, data order and sampling."""
    iterations: int = 3
    """Self-play iterations: Challenger, tasks, Solver."""
    tool_format: ToolFormat = "search_r1"
    """How the models write a search: tags, JSON tool calls or function-call text."""
    prompts: str = "default"
    """Prompt set: a name that is shipped, or a folder of text files."""
    model: ModelConfig
    """Base model."""
    documents: DocumentsConfig = DocumentsConfig()
    """Documents that the Challenger starts from."""
    challenger: ChallengerConfig = ChallengerConfig()
    """Challenger: conversation and reward."""
    solver: SolverConfig = SolverConfig()
    """Solver: conversation and reward."""
    judge: JudgeConfig = JudgeConfig()
    """Judge: rubrics, gates and grades."""
    tasks: TasksConfig = TasksConfig()
    """Stage 2, task creation."""
    challenger_train: StageConfig = StageConfig()
    """Stage 1, Challenger training."""
    solver_train: StageConfig = field(default_factory=solver_stage)
    """Stage 3, Solver training."""
    engine: EngineConfig = EngineConfig()
    """The trainer's own rollout engine."""
    retrieval: RetrievalConfig = RetrievalConfig()
    """Passages, encoder and index."""
    inference: InferenceConfig = InferenceConfig()
    """The inference process: retrieval, judge and previous Solver behind HTTP."""
    placement: PlacementConfig = PlacementConfig()
    """Devices of the two processes."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Checkpoints of the training stages."""
    tracking: TrackingConfig = TrackingConfig()
    """Progress, logs, TensorBoard."""
    compat: Compat = Compat()
    """Switches that turn the reference's behaviour on where ours differs."""


def check_sizes(config: Config) -> None:
    """Refuses sampling that no engine does, and limits that don't fit into one another.

    Raises:
      UserError: naming the fields and their values.
    """
    for name, sampling in (
        ("challenger.rollout_sampling", config.challenger.rollout_sampling),
        ("tasks.sampling", config.tasks.sampling),
        ("challenger_train.sampling", config.challenger_train.sampling),
        ("solver_train.sampling", config.solver_train.sampling),
    ):
        if problem := sampling.problem():
            raise UserError(f"{name}.{problem}")
    room = ("engine.max_length", config.engine.max_length)
    limits = [
        ("tasks.max_context_tokens", config.tasks.max_context_tokens, *room),
        (
            "tasks.sampling.max_new_tokens",
            config.tasks.sampling.max_new_tokens,
            "tasks.max_context_tokens",
            config.tasks.max_context_tokens,
        ),
    ]
    for role in ("challenger_train", "solver_train"):
        stage: StageConfig = getattr(config, role)
        context = (f"{role}.max_context_tokens", stage.max_context_tokens)
        limits.append((*context, *room))
        limits.append((*context, f"{role}.update.length", stage.update.length))
    for name, value, limit_name, limit in limits:
        if value > limit:
            raise UserError(
                f"{name}={value}: exceeds {limit_name}={limit}: raise the second, or "
                "lower the first"
            )
