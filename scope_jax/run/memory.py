"""Bytes and FLOPs of the update and of the engine on one device, from shapes alone.

What XLA allocates for itself is estimated from what the programs must hold at once, as
a sum over phases instead of the largest one, so the estimate errs on the high side.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from models import forward, lora, sharding
from models.config import DecoderConfig
from models.lora import LoraConfig
from rl.engine.config import EngineConfig
from rl.learner.config import UpdateConfig

# What the packed arrays and old log-probs of an optimizer batch take per position.
BATCH_BYTES = 4 * 10


@dataclass(frozen=True)
class Parameters:
    """Sizes of the parameters of a model on a mesh, in elements.

    Attributes:
      whole: of the whole model.
      sharded: of one device's share.
      blocks: of all layers, unsharded.
      largest: of the largest tensor, unsharded.
    """

    whole: int
    sharded: int
    blocks: int
    largest: int


def mesh_of(data: int, fsdp: int, tensor: int) -> AbstractMesh:
    """Returns a mesh of the trainer's axes without devices."""
    return AbstractMesh((data, fsdp, tensor), sharding.MESH_AXES)


def parameters(config: DecoderConfig, mesh: AbstractMesh | Mesh) -> Parameters:
    """Returns the sizes of a model's parameters; nothing is allocated."""
    found = jax.tree_util.tree_leaves_with_path(forward.shapes(config))
    return Parameters(
        whole=sum(leaf.size for _, leaf in found),
        sharded=sum(_share(path, leaf, mesh) for path, leaf in found),
        blocks=sum(leaf.size for path, leaf in found if path[0].key == "blocks"),
        largest=max(leaf.size for _, leaf in found),
    )


def _share(path: Any, leaf: Any, mesh: Any) -> int:
    """Numbers of one device's share of a parameter."""
    spec = sharding.param_spec(path[-1].key, leaf.shape, mesh)
    return leaf.size // int(np.prod([mesh.shape[axis] for axis in spec if axis]))


def adapter(config: DecoderConfig, settings: LoraConfig, mesh: Any) -> int:
    """Returns the numbers of one device's share of an adapter."""
    found = jax.tree_util.tree_leaves_with_path(lora.shapes(config, settings))
    return sum(_share(path, leaf, mesh) for path, leaf in found)


def resident(
    sizes: Parameters, *, compute_bytes: int, trained: int = 0
) -> dict[str, int]:
    """Returns the bytes that the trainer always holds: masters, moments, reference.

    Args:
      trained: numbers of an adapter, where it is trained in place of the weights; the
        base model is then reference and policy.
    """
    if trained:
        return {
            "base model": compute_bytes * sizes.sharded,
            "adapters": 4 * trained,
            "optimizer": 8 * trained,
        }
    return {
        "weights": 4 * sizes.sharded,
        "optimizer": 8 * sizes.sharded,
        "reference": compute_bytes * sizes.sharded,
    }


def update(
    config: DecoderConfig,
    shape: UpdateConfig,
    mesh: AbstractMesh | Mesh,
    *,
    compute_bytes: int,
    settings: LoraConfig | None = None,
) -> dict[str, int]:
    """Returns the bytes of one device, by kind, while ``Updater.update`` runs.

    Args:
      config: the decoder.
      shape: shapes of the update.
      mesh: from ``mesh_of``, or the trainer's own.
      compute_bytes: per number in the forward pass: 2 for bfloat16.
      settings: of the adapter that is trained in place of the weights.
    """
    trained = adapter(config, settings, mesh) if settings else 0
    c, sizes = config, parameters(config, mesh)
    fsdp, tensor = mesh.shape["fsdp"], mesh.shape["tensor"]
    rows = shape.rows // (mesh.shape["data"] * fsdp)
    tokens = rows * shape.length
    head = c.hidden_size * c.vocab_size // tensor
    # The sum over micro-batches, and this micro-batch's own.
    gradients = 2 * 4 * (trained or sizes.sharded)
    if not trained:
        # The head's is summed over chunks; tied weights are transposed at the end.
        gradients += 4 * head * (2 if c.tie_embeddings else 1)
    copies = compute_bytes * (trained or sizes.sharded) if compute_bytes != 4 else 0
    if fsdp > 1:
        # Embedding and head are gathered whole, a layer while the one before computes.
        tables = 1 if c.tie_embeddings else 2
        layer = sizes.blocks // c.num_layers // tensor
        copies += compute_bytes * (tables * head + 2 * layer)
    queries = c.num_heads * c.head_dim
    keys = 2 * c.num_kv_heads * c.head_dim
    cut = 3 * queries + 2 * keys + 3 * c.intermediate_size
    block = 4 * c.hidden_size + cut / tensor
    if settings:
        block += settings.rank * len(settings.targets)
    # What is kept of each layer for the backward pass, beside the residual stream.
    attended = queries / tensor
    products = (queries + keys + 2 * c.intermediate_size) / tensor + 2 * c.hidden_size
    kept = {"block": 0, "attention": attended, "dots": attended + products}
    kept = c.hidden_size + (kept | {"none": block})[shape.remat]
    activations = compute_bytes * tokens * (c.num_layers + 2) * kept
    # A block's values, and their gradients.
    activations += 2 * compute_bytes * tokens * block
    chunk = min(shape.logit_chunk, shape.length)
    logits = 3 * 4 * rows * chunk * c.vocab_size // tensor
    return resident(sizes, compute_bytes=compute_bytes, trained=trained) | {
        "gradients": int(gradients),
        "compute copies": int(copies),
        "activations": int(activations + logits),
        "batch": BATCH_BYTES * shape.capacity * tokens,
    }


def update_flops(
    config: DecoderConfig,
    shape: UpdateConfig,
    *,
    reference: bool,
    frozen: bool = False,
) -> dict[str, float]:
    """Returns FLOPs of a full micro-batch over all devices, without recomputation.

    The upper bound: every position holds a token in the loss, and every row is one
    segment.

    Args:
      reference: whether the reference's forward pass runs too.
      frozen: whether an adapter is trained, and no gradient of the weights is computed;
        the adapter's own products are not counted.
    """
    c = config
    sizes = parameters(c, mesh_of(1, 1, 1))
    tokens = shape.rows * shape.length
    forward_pass = 2 * (sizes.blocks + c.hidden_size * c.vocab_size) * tokens
    seen = np.mean(
        [
            min(c.layer_window(i) or shape.length, shape.length / 2)
            for i in range(c.num_layers)
        ]
    )
    pairs = 4 * c.num_layers * c.num_heads * c.head_dim * seen * tokens
    one = float(forward_pass + pairs)
    whole = 3 * one - (forward_pass if frozen else 0.0)
    return {"update": whole + (one if reference else 0.0), "log-probs": one}


def cache_bytes(config: DecoderConfig, *, compute_bytes: int) -> int:
    """Returns the bytes that one token takes in the cache."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * compute_bytes


def engine(
    config: DecoderConfig,
    shape: EngineConfig,
    *,
    devices: int,
    compute_bytes: int,
    settings: LoraConfig | None = None,
    adapters: int = 0,
) -> dict[str, int]:
    """Returns the bytes of one device that an engine with its own weights takes.

    Args:
      devices: over which the slots are split, each with a copy of the weights.
      settings, adapters: of the low-rank adapters, and how many there is room for.
    """
    c = config
    sizes = parameters(c, mesh_of(1, 1, 1))
    slots = shape.slots // devices
    token = cache_bytes(c, compute_bytes=compute_bytes)
    chunk = shape.prefill_rows * shape.prefill_chunk
    wide = 4 * c.hidden_size + 3 * c.num_heads * c.head_dim + 3 * c.intermediate_size
    # Logits, their sorted copy and what is drawn from them, in float32.
    sampling = 4 * 4 * slots * c.vocab_size
    # What each page adds to its slot's attention, in float32, as listed and sorted.
    parts = 2 * 4 * slots * shape.table * c.num_heads * (c.head_dim + 2)
    placed = adapters * lora.size(c, settings) if settings else 0
    return {
        "sampler weights": compute_bytes * (sizes.whole + placed),
        "cache": shape.pages(devices) * shape.page_size * token,
        "activations": int(2 * compute_bytes * chunk * wide + sampling + parts),
    }


def scoring(config: DecoderConfig, shape: EngineConfig, *, compute_bytes: int) -> int:
    """Returns the bytes of one device while the engine scores its longest text.

    All chunks of it at once, with a cache of their own beside the engine's; then the
    logits of one chunk after the other (``rl.engine.scoring``).
    """
    c, chunk = config, shape.prefill_chunk
    tokens = chunk << (-(-shape.max_length // chunk) - 1).bit_length()
    pages = -(-tokens // shape.page_size)
    cache = pages * shape.page_size * cache_bytes(c, compute_bytes=compute_bytes)
    # A block is in its products, or in a page of attention: scores and sums in float32.
    products = 3 * compute_bytes * c.intermediate_size
    page = 4 * c.num_heads * (2 * shape.page_size + 4 * c.head_dim)
    states = 3 * compute_bytes * tokens * c.hidden_size
    chunks = 2 * cache + tokens * max(products, page)  # as it was, and as it will be
    return states + max(chunks, 3 * 4 * chunk * c.vocab_size)


def total(kinds: Mapping[str, int]) -> int:
    """Returns all bytes together."""
    return sum(kinds.values())
