"""A trainer of several processes, one a host: they run the same script in lockstep.

Every process holds its part of the weights and plays its share of a step's rollouts on
its own devices. The leader, process 0, alone starts the inference process, writes the
run folder and creates tasks; what only it can know it tells the others. With one
process all of this does nothing.
"""

import functools
import pickle
import socket
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from models.errors import UserError
from models.sharding import make_mesh, replicated
from scope_jax.placement import HostsConfig

T = TypeVar("T")


def start(config: HostsConfig) -> None:
    """Joins this process with the others, before JAX looks for devices.

    Raises:
      UserError: they can't be found, or don't find one another.
    """
    if config.count == 1:
        return
    known: dict[str, Any] = {}
    if config.address is not None:
        known = {
            "coordinator_address": config.address,
            "num_processes": config.count,
            "process_id": config.index,
        }
    if jax.config.jax_platforms == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        # Processes that read kept CPU programs wait for one another for ever.
        jax.config.update("jax_enable_compilation_cache", False)
    # It would catch SIGTERM, and a run that Slurm or a person ends would go on.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **known,
            initialization_timeout=config.wait,
            heartbeat_timeout_seconds=config.wait,
            # One that ends by an error of its own waits so long for the others.
            shutdown_timeout_seconds=config.wait,
        )
    except (RuntimeError, ValueError) as error:
        said = str(error).strip().splitlines()[0]
        raise UserError(
            f"placement.hosts: {config.count} processes did not come together ({said}):"
            " start all of them, under Slurm or Kubernetes, or with the same "
            "--placement.hosts.address HOST:PORT and each its --placement.hosts.index"
        ) from error
    if jax.process_count() != config.count:
        raise UserError(
            f"placement.hosts.count={config.count}: the cluster has "
            f"{jax.process_count()} processes: make them equal"
        )


def leads() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def told(work: Callable[[], T]) -> T:
    """What ``work`` returns in the leader, or the ``UserError`` it raises, everywhere.

    The others wait. All must call this; ``work`` must not compute together with them.
    """
    if jax.process_count() == 1:
        return work()
    answer: tuple[Any, str | None] = (None, None)
    if leads():
        try:
            answer = (work(), None)
        except UserError as error:
            answer = (None, str(error))
    value, failure = everyones(answer)[0]
    if failure is not None:
        raise UserError(failure)
    return value


def everyones(value: T) -> list[T]:
    """Each process's ``value``, which pickle must know, in the processes' order."""
    if jax.process_count() == 1:
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


def mine(items: Sequence[T]) -> list[T]:
    """This process's share of ``items``: every item is one process's."""
    return list(items)[jax.process_index() :: jax.process_count()]


def check_mesh(mesh: Mesh) -> None:
    """Refuses a mesh in which a process would have no part.

    Raises:
      UserError: naming the sizes.
    """
    if jax.process_count() > 1 and mesh.size != jax.device_count():
        raise UserError(
            f"placement.trainer.mesh: {mesh.size} devices of the {jax.device_count()} "
            f"that {jax.process_count()} processes have together: use all of them"
        )


def own_mesh(mesh: Mesh) -> Mesh:
    """The devices that this process plays rollouts on."""
    if jax.process_count() == 1:
        return mesh
    return make_mesh(data=jax.local_device_count(), devices=jax.local_devices())


def own_copy(params: Any, mesh: Mesh) -> Any:
    """``params``, which lie over all processes, whole on each of this one's devices.

    All processes must call this; with one, it returns ``params``.
    """
    if jax.process_count() == 1:
        return params
    local = NamedSharding(own_mesh(mesh), PartitionSpec())

    def take(whole: jax.Array) -> jax.Array:
        parts = [part.data for part in whole.addressable_shards]
        return jax.make_array_from_single_device_arrays(whole.shape, local, parts)

    return jax.tree.map(take, _gather(mesh)(params))


@functools.cache
def _gather(mesh: Mesh) -> Callable[[Any], Any]:
    """One function, so that one program serves all calls."""
    return jax.jit(
        lambda tree: jax.tree.map(jnp.asarray, tree), out_shardings=replicated(mesh)
    )


def reachable(url: str, bound: str) -> str:
    """The leader's ``url`` as this process reaches it.

    Args:
      url: of the inference process, in the leader.
      bound: address that the inference process listens at.

    Raises:
      UserError: on another host, where that is the leader's loopback address.
    """
    leader, url = everyones((socket.gethostname(), url))[0]
    scheme, _, rest = url.partition("://")
    host, _, port = rest.rpartition(":")
    loopback = ("127.0.0.1", "localhost", "::1", "[::1]")
    if host not in loopback or leader == socket.gethostname():
        return url
    if bound in loopback:
        raise UserError(
            f"inference.host={bound}: is reached from {leader} only, and not from "
            f"{socket.gethostname()}: give 0.0.0.0 in a network that you trust"
        )
    return f"{scheme}://{leader}:{port}"
