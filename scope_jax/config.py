"""One run's settings: the packages' own dataclasses, composed into a frozen `Config`.

Each package owns the settings of its own room; this module adds what belongs to none of
them (stages, tasks, placement, checkpoints, tracking) and puts everything together. The
string below a field is its documentation: ``--help`` prints it. The defaults are the
method's constants as the reference uses them for Qwen2.5-7B; files of ``configs/`` say
only what differs.
"""

import re
from dataclasses import dataclass, field

from models.errors import UserError
from retrieval.config import RetrievalConfig
from rl.engine import EngineConfig
from rl.losses import LossConfig
from rl.optimizer import OptimizerConfig
from rl.records import SamplingParams
from rl.update import UpdateConfig
from scope_jax.challenger import ChallengerConfig
from scope_jax.compat import Compat
from scope_jax.inference import InferenceConfig
from scope_jax.judge import JudgeConfig
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
class MeshConfig:
    """Shape of the device mesh; the product is the number of devices used."""

    data: int = 1
    """Replicas of the parameters."""
    fsdp: int = 1
    """Devices over which each replica's parameters and optimizer state are sharded."""
    tensor: int = 1
    """Devices over which heads and feed-forward columns are split."""

    def __post_init__(self):
        for name in ("data", "fsdp", "tensor"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"mesh.{name}={getattr(self, name)}: must be at least 1"
                )


@dataclass(frozen=True, kw_only=True)
class ProcessConfig:
    """What one process may use of the machine."""

    devices: str | None = None
    """GPUs that the process sees, as in CUDA_VISIBLE_DEVICES: `2,3,4,5`. None: all."""
    memory_fraction: float | None = None
    """Share of each visible GPU's memory that JAX may take. None: JAX's default, 0.75.
    Two processes on one GPU need a sum below 1."""

    memory_gb: float = 80.0
    """Memory of each of these devices, in 10^9 bytes; only `--plan` asks."""

    def __post_init__(self):
        fraction = self.memory_fraction
        if fraction is not None and not 0 < fraction <= 1:
            raise UserError(
                f"memory_fraction={fraction}: must be more than 0 and at most 1"
            )
        if not self.memory_gb > 0:
            raise UserError(f"memory_gb={self.memory_gb}: must be positive")

    def environment(self) -> dict[str, str]:
        """Environment variables to set before the process starts its JAX backend."""
        variables = {}
        if self.devices is not None:
            variables["CUDA_VISIBLE_DEVICES"] = self.devices
        if self.memory_fraction is not None:
            variables["XLA_PYTHON_CLIENT_MEM_FRACTION"] = str(self.memory_fraction)
        return variables


@dataclass(frozen=True, kw_only=True)
class TrainerProcess(ProcessConfig):
    """The trainer's share of the machine."""

    mesh: MeshConfig = MeshConfig()
    """How its devices are arranged."""


@dataclass(frozen=True, kw_only=True)
class InferenceProcess(ProcessConfig):
    """The inference process's share of the machine."""

    replicas: int = 1
    """Engines per model, each on devices of its own."""

    def __post_init__(self):
        super().__post_init__()
        if self.replicas < 1:
            raise UserError(f"replicas={self.replicas}: must be at least 1")


@dataclass(frozen=True, kw_only=True)
class HostsConfig:
    """The processes of the trainer, one a host, which share one mesh."""

    count: int = 1
    """Trainer processes. Each is started by the same command, on a host with the same
    run folder; all their devices form the mesh."""
    address: str | None = None
    """`HOST:PORT` at which the first process is found by the others. None: Slurm or
    Kubernetes says it, and the number of each process."""
    index: int | None = None
    """Number of this process, from 0, where `address` is given."""
    wait: int = 300
    """Seconds after which a start without the others is given up, and a process that
    says nothing any more counts as dead."""

    def __post_init__(self):
        if self.count < 1:
            raise UserError(f"placement.hosts.count={self.count}: must be at least 1")
        given = self.index is not None
        if given != (self.address is not None):
            raise UserError(
                "placement.hosts: address and index belong together: give both, or "
                "neither where Slurm or Kubernetes starts the processes"
            )
        if given and not re.fullmatch(r".+:\d+", self.address):
            raise UserError(
                f"placement.hosts.address={self.address}: has no port: write HOST:PORT"
            )
        if given and not 0 <= self.index < self.count:
            raise UserError(
                f"placement.hosts.index={self.index}: is no number of "
                f"placement.hosts.count={self.count} processes: they count from 0"
            )


@dataclass(frozen=True, kw_only=True)
class PlacementConfig:
    """Which devices the two processes use. On a CPU both run there."""

    trainer: TrainerProcess = TrainerProcess()
    """Policy, optimizer, reference and the policy's own rollouts."""
    inference: InferenceProcess = InferenceProcess()
    """Retrieval, judge and previous Solver."""
    hosts: HostsConfig = HostsConfig()
    """Several trainer processes, on several hosts."""


def gpus(trainer: int, inference: int) -> PlacementConfig:
    """Placement on the GPUs of one machine, inference first, as the reference does.

    Args:
      trainer: GPUs of the trainer, one FSDP mesh over all of them.
      inference: GPUs of the inference process; 0 shares GPU 0 between both processes,
        0.55 of its memory for the trainer and 0.35 for inference.
    """
    if inference == 0:
        return PlacementConfig(
            trainer=TrainerProcess(
                devices=_ids(0, trainer),
                memory_fraction=0.55,
                mesh=MeshConfig(fsdp=trainer),
            ),
            inference=InferenceProcess(devices="0", memory_fraction=0.35),
        )
    return PlacementConfig(
        trainer=TrainerProcess(
            devices=_ids(inference, trainer),
            memory_fraction=0.9,
            mesh=MeshConfig(fsdp=trainer),
        ),
        inference=InferenceProcess(
            devices=_ids(0, inference),
            memory_fraction=0.85,
            replicas=inference,
        ),
    )


def _ids(first: int, count: int) -> str:
    return ",".join(str(first + i) for i in range(count))


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
    """Refuses limits that don't fit into one another, which would only cost rollouts.

    Raises:
      UserError: naming both fields and their values.
    """
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
