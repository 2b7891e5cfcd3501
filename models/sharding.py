"""One table from logical axes to mesh axes; shardings of parameters and batches.

The mesh has three axes: ``data`` (replicas), ``fsdp`` (parameters, gradients and Adam
moments sharded along D) and ``tensor`` (heads, F and V sharded). Batch rows are sharded
over ``data`` and ``fsdp`` together. A dimension whose size the mesh axis doesn't divide
is not sharded, so small models run on any mesh.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from models.errors import UserError

MESH_AXES = ("data", "fsdp", "tensor")

# Logical axis of a parameter -> mesh axis. With D over fsdp, weights are gathered one
# layer at a time; with heads, F and V over tensor, a layer needs two all-reduces, as in
# Megatron.
RULES: dict[str, str | None] = {
    "layers": None,
    "vocab": "tensor",
    "model": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "ff": "tensor",
    "norm": None,
}

# Last key of a parameter's path -> its logical axes.
LOGICAL_AXES: dict[str, tuple[str, ...]] = {
    "embed": ("vocab", "model"),
    "head": ("model", "vocab"),
    "final_norm": ("norm",),
    "q": ("layers", "model", "heads", "head_dim"),
    "k": ("layers", "model", "kv_heads", "head_dim"),
    "v": ("layers", "model", "kv_heads", "head_dim"),
    "o": ("layers", "heads", "head_dim", "model"),
    "q_bias": ("layers", "heads", "head_dim"),
    "k_bias": ("layers", "kv_heads", "head_dim"),
    "v_bias": ("layers", "kv_heads", "head_dim"),
    "o_bias": ("layers", "norm"),
    "q_norm": ("layers", "head_dim"),
    "k_norm": ("layers", "head_dim"),
    "q_norm_all": ("layers", "heads", "head_dim"),
    "k_norm_all": ("layers", "kv_heads", "head_dim"),
    "gate": ("layers", "model", "ff"),
    "up": ("layers", "model", "ff"),
    "down": ("layers", "ff", "model"),
    "gate_bias": ("layers", "ff"),
    "up_bias": ("layers", "ff"),
    "down_bias": ("layers", "norm"),
    "norm_attn": ("layers", "norm"),
    "norm_mlp": ("layers", "norm"),
    "norm_attn_out": ("layers", "norm"),
    "norm_mlp_out": ("layers", "norm"),
}


def make_mesh(
    data: int = 1,
    fsdp: int = 1,
    tensor: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """Returns a ``data x fsdp x tensor`` mesh over the first of ``devices``.

    Raises:
      UserError: if there are fewer devices than ``data * fsdp * tensor``.
    """
    devices = list(jax.devices() if devices is None else devices)
    needed = data * fsdp * tensor
    if needed > len(devices):
        raise UserError(
            f"a mesh of data={data} x fsdp={fsdp} x tensor={tensor}: needs {needed} "
            f"devices, but {len(devices)} are visible: make the mesh smaller"
        )
    grid = np.array(devices[:needed]).reshape(data, fsdp, tensor)
    # Auto, not Explicit: linen's Embed and optax's init don't carry sharding types.
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def param_spec(name: str, shape: Sequence[int], mesh: Mesh) -> PartitionSpec:
    """Returns the partition of the parameter called ``name`` of ``shape`` on ``mesh``.

    Raises:
      ValueError: if the name is not in the table, or has another rank there.
    """
    logical = LOGICAL_AXES.get(name)
    if logical is None or len(logical) != len(shape):
        raise ValueError(
            f"parameter {name!r} of shape {tuple(shape)} is not in the sharding table: "
            "add its logical axes to models.sharding.LOGICAL_AXES"
        )
    axes: list[str | None] = []
    for axis, size in zip(logical, shape, strict=True):
        mesh_axis = RULES[axis]
        divides = mesh_axis is not None and size % mesh.shape[mesh_axis] == 0
        axes.append(mesh_axis if divides else None)
    return PartitionSpec(*axes)


def param_shardings(params: Any, mesh: Mesh) -> Any:
    """Returns the tree of ``NamedSharding`` for parameters on ``mesh``.

    Args:
      params: the parameter pytree (arrays, or ``ShapeDtypeStruct`` as from
        ``models.forward.shapes``).
      mesh: a mesh from ``make_mesh``.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(
            mesh, param_spec(path[-1].key, leaf.shape, mesh)
        ),
        params,
    )


def batch_sharding(mesh: Mesh, *, leading: int = 0) -> NamedSharding:
    """Returns the sharding of batch arrays: rows over ``data`` and ``fsdp``.

    Args:
      mesh: a mesh from ``make_mesh``.
      leading: unsharded axes before the row axis (1 for micro-batches [M, R, T]).
    """
    return NamedSharding(mesh, PartitionSpec(*[None] * leading, ("data", "fsdp")))


def place(tree: Any, shardings: Any) -> Any:
    """Returns ``tree`` on the devices of ``shardings``, also across processes.

    Args:
      tree: arrays; those local to a process must be the same in every process.
      shardings: a tree of the same structure, or one sharding for all.
    """
    if isinstance(shardings, NamedSharding):
        one = shardings
        shardings = jax.tree.map(lambda _: one, tree)

    def put(x: Any, sharding: NamedSharding) -> jax.Array:
        shared = isinstance(x, jax.Array) and not x.is_fully_addressable
        if shared or sharding.is_fully_addressable:
            return jax.device_put(x, sharding)
        # device_put would compare values across processes, with a collective per array.
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda at: host[at])

    return jax.tree.map(put, tree, shardings)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of values of which every device holds a full copy."""
    return NamedSharding(mesh, PartitionSpec())


def row_shards(mesh: Mesh) -> int:
    """Returns how many shards the rows of a batch are split into on ``mesh``."""
    return mesh.shape["data"] * mesh.shape["fsdp"]
