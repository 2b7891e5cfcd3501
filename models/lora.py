"""Low-rank adapters: small matrices that are trained in place of the whole weights.

A matrix W [in, out] becomes W + (alpha / rank) A B with A [in, rank] and B [rank, out].
Only A and B are trained; B starts at 0, so that training starts from the model itself.

An adapter is a tree beside the parameters': where those have ``q`` [L, D, N, H], it has
``q_a`` [L, D, R] and ``q_b`` [L, R, N, H], where R is the rank. Everything but
``scaled`` and the files takes adapters whose B has been multiplied by alpha / rank.

Reference: Hu et al., LoRA: low-rank adaptation of large language models
(arXiv:2106.09685), equation 3.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from models import forward
from models.config import DecoderConfig
from models.errors import UserError
from models.forward import Params
from models.layers import inputs_of
from models.ranges import POSITIVE, Range, check_fields
from models.unstacked import GROUPS

Target = Literal[
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
]
TARGETS: tuple[Target, ...] = Target.__args__
MOST_RANK = 4096


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters that are trained in place of the weights (arXiv:2106.09685)."""

    rank: Annotated[int, Range(least=0, most=MOST_RANK)] = 32
    """Rank of each adapter; 0 trains the whole weights."""
    alpha: Annotated[float, POSITIVE] = 32.0
    """An adapter's product is multiplied by alpha / rank."""
    targets: tuple[Target, ...] = TARGETS
    """Matrices that get an adapter, in every layer; by default all linear layers.
    Embeddings, the output head, norms and biases never change."""
    learning_rate_factor: Annotated[float, POSITIVE] = 10.0
    """The stages' learning rates are multiplied by it: adapters need larger ones."""

    def __post_init__(self):
        check_fields(self)
        if not self.targets:
            raise UserError(
                f"targets=(): name some of {', '.join(TARGETS)}, or set rank 0"
            )

    @property
    def used(self) -> "LoraConfig | None":
        """The settings where adapters are trained; None: all weights are."""
        return self if self.rank else None

    @property
    def scale(self) -> float:
        """What the product of the two matrices is multiplied by."""
        return self.alpha / self.rank

    @property
    def names(self) -> tuple[str, ...]:
        """The targets as our parameters are called."""
        return tuple(target.removesuffix("_proj") for target in self.targets)


def shapes(config: DecoderConfig, lora: LoraConfig) -> Params:
    """An adapter as ``ShapeDtypeStruct``, float32; nothing is allocated."""
    blocks: dict[str, dict[str, Any]] = {}
    for part, leaves in forward.shapes(config)["blocks"].items():
        if not isinstance(leaves, dict):
            continue
        for name, leaf in leaves.items():
            if name in lora.names:
                cut = 1 + inputs_of(name)
                place = blocks.setdefault(part, {})
                a, b = leaf.shape[:cut], leaf.shape[cut:]
                place[f"{name}_a"] = _float32(*a, lora.rank)
                place[f"{name}_b"] = _float32(leaf.shape[0], lora.rank, *b)
    return {"blocks": blocks}


def _float32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def size(config: DecoderConfig, lora: LoraConfig) -> int:
    """Numbers in an adapter."""
    return sum(leaf.size for leaf in jax.tree.leaves(shapes(config, lora)))


def init(config: DecoderConfig, lora: LoraConfig, key: Array) -> Params:
    """A fresh adapter, float32: A uniform in +-1/sqrt(in), B zero.

    The distribution of A is that of peft 0.17's default, ``init_lora_weights=True``.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes(config, lora))
    keys = jax.random.split(key, len(leaves))

    def fresh(path: Any, leaf: Any, key: Array) -> Array:
        if path[-1].key.endswith("_b"):
            return jnp.zeros(leaf.shape, leaf.dtype)
        bound = math.prod(leaf.shape[1:-1]) ** -0.5
        return jax.random.uniform(key, leaf.shape, leaf.dtype, -bound, bound)

    made = [fresh(path, leaf, k) for (path, leaf), k in zip(leaves, keys, strict=True)]
    return jax.tree_util.tree_unflatten(tree, made)


def scaled(adapter: Params, lora: LoraConfig) -> Params:
    """The adapter with its B multiplied by alpha / rank."""

    def one(path: Any, leaf: Array) -> Array:
        return leaf * lora.scale if path[-1].key.endswith("_b") else leaf

    return jax.tree_util.tree_map_with_path(one, adapter)


def attach(params: Params, adapter: Params) -> Params:
    """The model's parameters with the adapter's among them, for ``models.forward``.

    Args:
      params: as from ``forward.init``, or from ``unstack``.
      adapter: scaled.
    """
    blocks = params["blocks"]
    if not isinstance(blocks, tuple):
        return params | {"blocks": united(blocks, adapter["blocks"])}
    layers = unstacked(adapter, len(blocks))
    return params | {"blocks": tuple(map(united, blocks, layers))}


def united(block: Params, adapter: Params) -> Params:
    """A layer's parameters, or those of all, with an adapter's among them."""
    parts = {part: block[part] | leaves for part, leaves in adapter.items()}
    return block | parts


def unstacked(adapter: Params, num_layers: int) -> tuple[Params, ...]:
    """An adapter beside parameters from ``unstack``, a tuple of layers.

    There the A of matrices that multiply the same activations are one, with an axis P
    for the matrices, and there is an axis for several adapters, here of length 1:
    ``qkv_a`` [D, P, 1, R] and ``q_b`` [1, R, N, H].
    """

    def layer(index: int) -> Params:
        block: dict[str, dict[str, Array]] = {}
        for part, leaves in adapter["blocks"].items():
            place = block.setdefault(part, {})
            for joined, names in GROUPS[part].items():
                found = [name for name in names if f"{name}_a" in leaves]
                if found:
                    each = [leaves[f"{name}_a"][index] for name in found]
                    place[f"{joined}_a"] = jnp.stack(each, axis=-2)[..., None, :]
                for name in found:
                    place[f"{name}_b"] = leaves[f"{name}_b"][index][None]
        return block

    return tuple(layer(index) for index in range(num_layers))


def merge(params: Params, adapter: Params) -> Params:
    """The weights of the model with the adapter: W + A B, in the dtype of ``params``.

    Args:
      params: stacked, as from ``forward.init``.
      adapter: scaled.
    """
    blocks = {
        part: dict(leaves) if isinstance(leaves, dict) else leaves
        for part, leaves in params["blocks"].items()
    }
    for part, leaves in adapter["blocks"].items():
        for name in [key.removesuffix("_a") for key in leaves if key.endswith("_a")]:
            blocks[part][name] = _merged(
                blocks[part][name], leaves[f"{name}_a"], leaves[f"{name}_b"]
            )
    return params | {"blocks": blocks}


@jax.jit
def _merged(weight: Array, a: Array, b: Array) -> Array:
    def one(_: None, layer: tuple[Array, Array, Array]) -> tuple[None, Array]:
        weight, a, b = layer
        rank = a.shape[-1]
        product = jnp.matmul(
            a.reshape(-1, rank).astype(jnp.float32),
            b.reshape(rank, -1).astype(jnp.float32),
            precision="highest",
        )
        whole = weight.astype(jnp.float32) + product.reshape(weight.shape)
        return None, whole.astype(weight.dtype)

    # A layer at a time: the product of all would be as large as the weights.
    return jax.lax.scan(one, None, (weight, a, b))[1]
