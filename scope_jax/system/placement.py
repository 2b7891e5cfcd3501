"""Where a run computes: devices, meshes and memory of its processes."""

import re
from dataclasses import dataclass
from typing import Annotated

from models.errors import UserError
from models.ranges import POSITIVE, WHOLE, Count, Range, check_fields

JAX_FRACTION = 0.75
"""Of a GPU, what JAX takes by default."""


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Shape of the device mesh; the product is the number of devices used."""

    data: Count = 1
    """Replicas of the parameters."""
    fsdp: Count = 1
    """Devices over which each replica's parameters and optimizer state are sharded."""
    tensor: Count = 1
    """Devices over which heads and feed-forward columns are split."""

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class ProcessConfig:
    """What one process may use of the machine."""

    devices: str | None = None
    """GPUs that the process sees, as in CUDA_VISIBLE_DEVICES: `2,3,4,5`. None: all."""
    memory_fraction: Annotated[float | None, Range(above=0, most=1)] = None
    """Share of each visible GPU's memory that JAX may take. None: JAX's default, 0.75.
    For two processes on one GPU, the sum must be below 1."""

    memory_gb: Annotated[float, POSITIVE] = 80.0
    """Memory of each of these devices, in 10^9 bytes; only `--plan` uses it."""

    def __post_init__(self):
        check_fields(self)

    @property
    def jax_bytes(self) -> float:
        """What JAX may take of each device."""
        fraction = self.memory_fraction
        return 1e9 * self.memory_gb * (JAX_FRACTION if fraction is None else fraction)

    def gpus(self) -> tuple[str, ...] | None:
        """The GPUs that it sees; None: all."""
        return None if self.devices is None else tuple(self.devices.split(","))

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

    replicas: Count = 1
    """Engines per model, each on its own device."""


@dataclass(frozen=True, kw_only=True)
class HostsConfig:
    """The processes of the trainer, one per host, which share one mesh."""

    count: Count = 1
    """Trainer processes. Each is started by the same command, on a host with the same
    run folder; all their devices form the mesh."""
    address: str | None = None
    """`HOST:PORT` at which the others find the first process. None: Slurm or Kubernetes
    provides it, and the index of each process."""
    index: Annotated[int | None, Range(least=0, most=WHOLE)] = None
    """Index of this process, from 0; needed where `address` is given."""
    wait: Count = 300
    """Seconds after which a start without the others fails, and after which a process
    that no longer responds counts as dead."""

    def __post_init__(self):
        check_fields(self)
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
                f"placement.hosts.index={self.index}: must be between 0 and "
                f"{self.count - 1} (placement.hosts.count - 1)"
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

    @property
    def left_bytes(self) -> float:
        """What JAX leaves on each GPU of the inference process, in both processes."""
        ours, theirs = self.inference.gpus(), self.trainer.gpus()
        left = 1e9 * self.inference.memory_gb - self.inference.jax_bytes
        if None in (ours, theirs) or {*ours} & {*theirs}:
            left -= self.trainer.jax_bytes
        return left


def gpus(trainer: int, inference: int) -> PlacementConfig:
    """Placement on the GPUs of one machine, inference first, as the reference does.

    Args:
      trainer: GPUs of the trainer, one FSDP mesh over all of them.
      inference: GPUs of the inference process; 0 shares GPU 0 between both processes,
        0.55 of its memory for the trainer and 0.35 for inference.
    """
    shared = inference == 0
    return PlacementConfig(
        trainer=TrainerProcess(
            devices=_ids(inference, trainer),
            memory_fraction=0.55 if shared else 0.9,
            mesh=MeshConfig(fsdp=trainer),
        ),
        inference=InferenceProcess(
            devices=_ids(0, 1 if shared else inference),
            memory_fraction=0.35 if shared else 0.85,
            replicas=1 if shared else inference,
        ),
    )


def _ids(first: int, count: int) -> str:
    return ",".join(str(first + i) for i in range(count))
