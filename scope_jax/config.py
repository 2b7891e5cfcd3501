"""The settings of a run: the packages' own dataclasses, composed into a ``Config``.

Each package defines its own settings. This module adds those that belong to none of
them (stages, tasks, checkpoints, tracking) and composes them all. The string below a
field is its documentation: ``--help`` prints it. The defaults are the reference
implementation's values for Qwen2.5-7B; files of ``configs/`` set only what differs.
"""

import datetime
from dataclasses import dataclass, field
from typing import Annotated, Literal

from models.errors import UserError
from models.lora import LoraConfig
from models.precision import Dtype
from models.ranges import (
    NOT_NEGATIVE,
    POSITIVE,
    Count,
    CountOrZero,
    Range,
    Share,
    check_fields,
    problem_of,
)
from retrieval.config import RetrievalConfig
from rl import seeds
from rl.engine.config import EngineConfig
from rl.learner.config import OverlongConfig, UpdateConfig
from rl.learner.losses import LossConfig
from rl.learner.optimizer import OptimizerConfig
from rl.learner.preferences import PairLossConfig
from rl.records import SamplingParams
from scope_jax.inference import InferenceConfig
from scope_jax.method import teacher
from scope_jax.method.challenger import ChallengerConfig
from scope_jax.method.compat import Compat
from scope_jax.method.judge import JudgeConfig
from scope_jax.method.solver import SolverConfig
from scope_jax.method.task_settings import DocumentsConfig, TasksConfig
from scope_jax.method.types import ToolFormat, check_own_code
from scope_jax.method.unread import check_unread
from scope_jax.system.placement import PlacementConfig


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The base model: judge, KL reference, and start of both policies."""

    path: str
    """Folder in Hugging Face format, name on the hub, or `demo` (the small world's
    model, which comes with the package). May be an adapter's, of the peft library, if
    `lora.rank` is 0."""
    template: str | None = None
    """Chat template to use instead of the tokenizer's own: a file, or the name of one
    in `models/templates`. None: the tokenizer's."""
    dtype: Dtype = "auto"
    """Arithmetic of every forward pass, and what weights and cache are held in: auto is
    bfloat16 on GPUs and float32 on CPUs, where bfloat16 pays with AMX or AVX512-BF16
    only (docs/performance.md). Logits, log-probs, the loss, master weights and moments
    are float32 either way."""
    date: str = ""
    """What a chat template that prints today's date is told, YYYY-MM-DD. Empty: the day
    on which the run starts, which its config.json then has: a resumed run has the same
    prompts."""

    def __post_init__(self):
        try:
            self.date and datetime.date.fromisoformat(self.date)
        except ValueError as error:
            raise UserError(
                f"date={self.date!r}: not a day ({error}): write it as YYYY-MM-DD"
            ) from error


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One training stage: GRPO on one policy (spec 12)."""

    steps: CountOrZero = 20
    """Training steps per iteration. 0: this policy is not trained and stays the base
    model."""
    prompts_per_step: Count = 64
    """Prompts per step."""
    group_size: Count = 8
    """Rollouts per prompt; their mean reward is the baseline."""
    advantage: Literal["group", "rloo", "role", "turn"] = "group"
    """What a reward is compared with: its group's mean, the mean of the group's others
    (rloo), or a running mean of its task type and role; or (turn) each turn's return
    with those of all turns."""
    advantage_std: bool = True
    """Divide by the group's standard deviation (advantage "group" only)."""
    drop_zero: bool = False
    """Leave out rollouts whose advantage is exactly 0 (advantage "role" only)."""
    dynamic_sampling: bool = False
    """Leave out groups of equal rewards, and draw other prompts until the step has
    `prompts_per_step` groups that differ: at most 10 draws, or until none is left."""
    overlong: OverlongConfig = OverlongConfig()
    """What a rollout loses for its length."""
    right_from: Share = 0.5
    """Score from which a rollout counts as right, where the loss asks for that (policy
    "nft"): a Solver's rubric score, a Challenger's difficulty score."""
    sampling: SamplingParams = SamplingParams(max_new_tokens=8192)
    """How the policy samples; `max_new_tokens` is per turn."""
    max_prompt_tokens: Count = 1024
    """Solver tasks with longer prompts are left out; a longer Challenger prompt is an
    error, because its documents are truncated to a fixed length."""
    max_response_tokens: Count = 8192
    """Limit on the tokens after the prompt, tool results included."""
    max_context_tokens: Count = 16384
    """Limit on prompt and response; a conversation that reaches it ends as `length`."""
    loss: LossConfig = LossConfig()
    """Policy loss and KL penalty."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """AdamW."""
    update: UpdateConfig = UpdateConfig()
    """Shapes and precision of the update."""

    def __post_init__(self):
        check_fields(self)
        if problem := problem_of(self.sampling):
            raise UserError(f"sampling.{problem}")
        if self.group_size < 2 and (self.advantage == "rloo" or self.dynamic_sampling):
            why = "advantage=rloo and dynamic_sampling compare rollouts of a prompt"
            raise UserError(f"group_size={self.group_size}: {why}: give 2 or more")
        if self.drop_zero and self.advantage != "role":
            why = "is a part of advantage=role: give both, or leave it off"
            raise UserError(f"drop_zero with advantage={self.advantage}: {why}")
        if self.update.temperature != self.sampling.temperature:
            raise UserError(
                f"sampling.temperature {self.sampling.temperature}: is not "
                f"update.temperature {self.update.temperature}, so the trained policy "
                "would not be the sampled one: make them equal"
            )


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
    """Training on pairs of stored answers (recipe "preference", docs/options.md).

    Optimizer, update and checkpoints are those of `solver_train`.
    """

    run: str = ""
    """Folder of the run whose Solver's rollouts are compared."""
    loss: PairLossConfig = PairLossConfig()
    """Loss of a pair."""
    epochs: Count = 1
    """Times that each pair is trained on."""
    pairs_per_step: Count = 16
    """Pairs of an update; what is left of an epoch is left out."""
    min_spread: Annotated[float, NOT_NEGATIVE] = 0.001
    """Least standard deviation of the rubric scores of a task's answers."""
    max_word_gap: CountOrZero = 100
    """Most words that one answer of a pair may have more than the other; 0 wants
    equally long ones."""

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When a training stage is saved. Its last step always is saved."""

    every: CountOrZero = 2
    """Steps between checkpoints, of which only the newest is kept; 0 for none."""
    permanent_every: CountOrZero = 10
    """Steps between checkpoints that are kept permanently; 0 for none."""

    def __post_init__(self):
        check_fields(self)

    def is_due(self, step: int) -> bool:
        """Whether a step is saved, temporarily or permanently."""
        return any(n and step % n == 0 for n in (self.every, self.permanent_every))


@dataclass(frozen=True, kw_only=True)
class AlarmConfig:
    """When a run warns that the policy may be exploiting the judge."""

    threshold: Annotated[float, NOT_NEGATIVE] = 0.1
    """How much further than the truth the judge's score may rise."""
    min_correlation: Annotated[float, Range(least=-1, most=1)] = 0.3
    """Smallest correlation of reward and truth within groups, where it is known."""
    window: Count = 3
    """Steps whose mean is taken: the first ones are the start, the last ones now."""
    patience: Count = 2
    """Steps in a row on which a limit must be passed."""

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Scores of Solvers on held-out tasks of the small world; they train nothing."""

    count: CountOrZero = 0
    """Held-out tasks that the base model and every iteration's Solver answer, greedily
    and sampled, at the end of a run; 0 evaluates nothing, with `each_iteration` too."""
    each_iteration: bool = False
    """Have each Solver answer them at the end of its iteration already, the base model
    with the first one."""
    every: CountOrZero = 0
    """Steps of Solver training after which the policy of that moment answers them; 0
    for never."""
    split: Literal["dev", "test"] = "test"
    """Part of the small world that the tasks are about: one to choose settings on, one
    to report."""

    def __post_init__(self):
        check_fields(self)

    def is_due(self, role: str, step: int) -> bool:
        """Whether a step of a training stage ends with an evaluation."""
        due = self.count and self.every and step % self.every == 0
        return role == "solver" and bool(due)


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """What is written and shown during a run; never changes what is computed."""

    tensorboard: bool = True
    """Write TensorBoard event files to `tb/` in the run folder."""
    progress: bool = True
    """Show a screen on a terminal. Without it, and where the output is not a terminal,
    one line per step is logged."""
    alarm: AlarmConfig = AlarmConfig()
    """When a run warns that the policy may be exploiting the judge."""
    trackers: tuple[Literal["wandb", "trackio"], ...] = ()
    """Copy the metrics to these too; each is a package of its own."""
    project: str = "scope_jax"
    """Name of the project there."""
    prometheus_port: Annotated[int, Range(least=0, most=65535)] = 0
    """Port on this machine's loopback address at which Prometheus finds the last value
    of every metric; 0 for none."""

    def __post_init__(self):
        check_fields(self)


def compute_dtype(config: "Config", stage: StageConfig) -> Dtype:
    """Arithmetic of a stage's forward pass, where the update has none of its own."""
    own = stage.update.compute_dtype
    return config.model.dtype if own == "auto" else own


def solver_stage() -> StageConfig:
    """The method's defaults for stage 3; those for stage 1 are `StageConfig()`."""
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
    seed: Annotated[int, seeds.RANGE] = 42
    """Seed of everything random: prompts, data order and sampling; 0 to 2**64 - 1."""
    recipe: Literal["self_play", "preference"] = "self_play"
    """self_play: the method. preference: a Solver is trained once, from the base model,
    on the best and the worst answers of another run; nothing is sampled."""
    iterations: Count = 3
    """Self-play iterations: Challenger, tasks, Solver."""
    tool_format: ToolFormat = "search_r1"
    """How the models write a search: tags, JSON tool calls or function-call text."""
    prompts: str = "default"
    """Prompt set: the name of one that comes with the package, or a folder of text
    files."""
    model: ModelConfig
    """Base model."""
    lora: LoraConfig = LoraConfig(rank=0)
    """Low-rank adapters trained in place of the weights; by default none, rank 0."""
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
    preference: PreferenceConfig = PreferenceConfig()
    """Recipe "preference"."""
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
    evaluation: EvaluationConfig = EvaluationConfig()
    """Evaluation on held-out tasks, during a run and at its end."""
    tracking: TrackingConfig = TrackingConfig()
    """Progress, logs, TensorBoard."""
    compat: Compat = Compat()
    """Switches that turn on the reference's behaviour where ours differs."""
    tools: str = ""
    """A tool of your own in place of the search, as FILE.py:NAME (docs/your-reward.md):
    queries to texts. Empty: the search over the passages."""
    tools_timeout: Annotated[float, POSITIVE] = 60.0
    """Seconds that a call of your own tool may take."""
    tools_hash: str = ""
    """Hash that the file of your own tool must have. Empty: the one it has when the run
    starts, which its config.json then has."""

    def __post_init__(self):
        seeds.check("seed", self.seed)
        check_fields(self)
        teacher.check_weights(
            self.solver.teacher, self.solver_train, self.challenger_train
        )
        check_unread(self)
        check_own_code("tools", self.tools)
        if (self.recipe == "preference") != bool(self.preference.run):
            raise UserError(
                f"recipe={self.recipe} with preference.run={self.preference.run!r}: "
                "the recipe preference needs the folder of a run, and no other does"
            )
