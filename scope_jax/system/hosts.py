"""A trainer of several processes, one per host: they run the same script in lockstep.

Every process holds its part of the weights and plays its share of a step's rollouts on
its own devices. The leader, process 0, alone starts the inference process, writes the
run folder and creates tasks; the others receive what only it can know.
"""

import functools
import pickle
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from models.errors import StorageError, UserError
from models.sharding import make_mesh, replicated
from scope_jax.system.placement import HostsConfig
from scope_jax.system.stopping import Stopped

T = TypeVar("T")


@dataclass(frozen=True)
class Hosts:
    """The trainer's processes as one of them sees them; with one, nothing is sent.

    What is said to be for all processes must be called by all of them, in one order.
    """

    index: int = 0
    """Number of this process."""
    count: int = 1
    """Number of processes."""

    @property
    def is_leader(self) -> bool:
        """Whether this process is the one that writes."""
        return self.index == 0

    def from_leader(self, work: Callable[[], T]) -> T:
        """What ``work`` returns in the leader; for all.

        The others wait. ``work`` must not run a program that spans hosts.

        Raises:
          UserError, Stopped: as ``work`` does in the leader.
        """
        if self.count == 1:
            return work()
        answer: tuple[Any, Exception | None] = (None, None)
        if self.is_leader:
            try:
                answer = (work(), None)
            except (UserError, StorageError, Stopped) as error:
                answer = (None, error)
        value, failure = self.all_gather(answer)[0]
        if failure is not None:
            raise failure
        return value

    def together(self, work: Callable[[], T]) -> list[T]:
        """What ``work`` returns in each process, in process order; for all.

        Raises:
          UserError, Stopped: one of them ends, so that all of them end here.
        """
        if self.count == 1:
            return [work()]
        try:
            own: tuple[Any, UserError | Stopped | None] = (work(), None)
        except (UserError, Stopped) as error:
            own = (None, error)
        every = self.all_gather(own)
        for _, error in every:
            if error is not None:
                raise error
        return [value for value, _ in every]

    def all_gather(self, value: T) -> list[T]:
        """Each process's ``value``, pickled on the way, in process order; for all."""
        if self.count == 1:
            return [value]
        own = np.frombuffer(pickle.dumps(value), np.uint8)
        sizes = multihost_utils.process_allgather(np.array([own.size]), tiled=True)
        # To a power of two, or each call would compile a program.
        padded = np.zeros((1, 1 << int(sizes.max()).bit_length()), np.uint8)
        padded[0, : own.size] = own
        every = multihost_utils.process_allgather(padded, tiled=True)
        return [
            pickle.loads(row[:size].tobytes())
            for row, size in zip(np.asarray(every), sizes, strict=True)
        ]

    def local_share(self, items: Sequence[T]) -> list[T]:
        """This process's share of ``items``: each item is in exactly one share."""
        return list(items)[self.index :: self.count]

    def check_mesh(self, mesh: Mesh) -> None:
        """Refuses a mesh in which a process would have no part.

        Raises:
          UserError: naming the sizes.
        """
        if self.count > 1 and mesh.size != jax.device_count():
            raise UserError(
                f"placement.trainer.mesh: {mesh.size} devices of the "
                f"{jax.device_count()} that {self.count} processes have together: use "
                "all of them"
            )

    def local_mesh(self, mesh: Mesh) -> Mesh:
        """The devices that this process plays rollouts on."""
        if self.count == 1:
            return mesh
        return make_mesh(data=jax.local_device_count(), devices=jax.local_devices())

    def local_copy(self, params: Any, mesh: Mesh) -> Any:
        """``params``, sharded over all processes, whole on each local device; for all.

        With one process it returns ``params``.
        """
        if self.count == 1:
            return params
        local = NamedSharding(self.local_mesh(mesh), PartitionSpec())

        def take(whole: jax.Array) -> jax.Array:
            parts = [part.data for part in whole.addressable_shards]
            return jax.make_array_from_single_device_arrays(whole.shape, local, parts)

        return jax.tree.map(take, _replicate(mesh)(params))

    def reachable(self, url: str, bound: str) -> str:
        """The leader's ``url`` as this process reaches it; for all.

        Args:
          url: of the inference process, in the leader.
          bound: address that the inference process listens on.

        Raises:
          UserError: on another host, where that is the leader's loopback address.
        """
        leader, url = self.all_gather((socket.gethostname(), url))[0]
        scheme, _, rest = url.partition("://")
        host, _, port = rest.rpartition(":")
        loopback = ("127.0.0.1", "localhost", "::1", "[::1]")
        if host not in loopback or leader == socket.gethostname():
            return url
        if bound in loopback:
            raise UserError(
                f"inference.host={bound}: can be reached from {leader} only, not from "
                f"{socket.gethostname()}: give 0.0.0.0 in a network that you trust"
            )
        return f"{scheme}://{leader}:{port}"


ONE_HOST = Hosts()
"""A trainer of a single process."""


@functools.cache
def _replicate(mesh: Mesh) -> Callable[[Any], Any]:
    """One function, so that one program serves all calls."""
    return jax.jit(
        lambda tree: jax.tree.map(jnp.asarray, tree), out_shardings=replicated(mesh)
    )


def join(config: HostsConfig) -> Hosts:
    """Joins this process with the others, before JAX looks for devices.

    Raises:
      UserError: the others cannot be found, or there are not as many as configured.
    """
    if config.count == 1:
        return ONE_HOST
    known: dict[str, Any] = {}
    if config.address is not None:
        known = {
            "coordinator_address": config.address,
            "num_processes": config.count,
            "process_id": config.index,
        }
    if jax.config.jax_platforms == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        # Processes that read cached CPU programs deadlock.
        jax.config.update("jax_enable_compilation_cache", False)
    # It would catch SIGTERM, and a run that Slurm or a person ends would not stop.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **known,
            initialization_timeout=config.wait,
            heartbeat_timeout_seconds=config.wait,
            # A process that fails waits this long for the others.
            shutdown_timeout_seconds=config.wait,
        )
    except (RuntimeError, ValueError) as error:
        said = str(error).strip().splitlines()[0]
        raise UserError(
            f"placement.hosts: {config.count} processes did not connect ({said}):"
            " start all of them, under Slurm or Kubernetes, or with the same "
            "--placement.hosts.address HOST:PORT and each its --placement.hosts.index"
        ) from error
    if jax.process_count() != config.count:
        raise UserError(
            f"placement.hosts.count={config.count}: the cluster has "
            f"{jax.process_count()} processes: make them equal"
        )
    return Hosts(jax.process_index(), config.count)
