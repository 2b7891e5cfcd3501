"""Where every tensor of a Hugging Face decoder lives in our parameter tree.

The families share their names but for the norms; what else differs (biases, query and
key norms, tied embeddings) is read from the ``DecoderConfig``. PyTorch stores a
projection as ``[out, in]``; ours is ``[in, out]`` with the out (or in) axis split into
heads, so that ``ours = theirs.T.reshape(shape)`` holds for every tensor but the
embedding.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from models.config import DecoderConfig

Path = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """One parameter: its Hugging Face name, both shapes, and how they relate.

    Attributes:
      name: tensor name; ``{}`` stands for the layer where ``stacked``.
      hf_shape: shape of one tensor in the file.
      shape: our shape of one layer's slice (without the leading L).
      stacked: whether our leaf has a leading layer axis.
      transposed: whether the file holds the transpose.
    """

    name: str
    hf_shape: tuple[int, ...]
    shape: tuple[int, ...]
    stacked: bool = True
    transposed: bool = True

    def names(self, num_layers: int) -> list[str]:
        """Returns the tensor names that make up this leaf, in layer order."""
        if not self.stacked:
            return [self.name]
        return [self.name.format(layer) for layer in range(num_layers)]

    def to_ours(self, tensor: np.ndarray) -> np.ndarray:
        """Returns a file's tensor in our layout (a view where possible)."""
        return (tensor.T if self.transposed else tensor).reshape(self.shape)

    def to_hf(self, array: np.ndarray) -> np.ndarray:
        """Returns our slice in the file's layout, contiguous."""
        if self.transposed:
            array = array.reshape(self.hf_shape[::-1]).T
        return np.ascontiguousarray(array)


def layout(config: DecoderConfig) -> dict[Path, Leaf]:
    """Returns every leaf of the parameter tree of ``config`` by its path."""
    d, f, v = config.hidden_size, config.intermediate_size, config.vocab_size
    n, k, h = config.num_heads, config.num_kv_heads, config.head_dim
    attn, mlp = "model.layers.{}.self_attn.", "model.layers.{}.mlp."
    norms = ("input_layernorm", "post_attention_layernorm")
    if config.family.post_norm:
        norms = ("post_attention_layernorm", "post_feedforward_layernorm")

    def matrix(name: str, shape: tuple[int, ...], hf_shape: tuple[int, ...]) -> Leaf:
        return Leaf(name=name + ".weight", hf_shape=hf_shape, shape=shape)

    leaves = {
        ("embed",): Leaf(
            name="model.embed_tokens.weight",
            hf_shape=(v, d),
            shape=(v, d),
            stacked=False,
            transposed=False,
        ),
        ("blocks", "norm_attn"): matrix(f"model.layers.{{}}.{norms[0]}", (d,), (d,)),
        ("blocks", "attn", "q"): matrix(attn + "q_proj", (d, n, h), (n * h, d)),
        ("blocks", "attn", "k"): matrix(attn + "k_proj", (d, k, h), (k * h, d)),
        ("blocks", "attn", "v"): matrix(attn + "v_proj", (d, k, h), (k * h, d)),
        ("blocks", "attn", "o"): matrix(attn + "o_proj", (n, h, d), (d, n * h)),
        ("blocks", "norm_mlp"): matrix(f"model.layers.{{}}.{norms[1]}", (d,), (d,)),
        ("blocks", "mlp", "gate"): matrix(mlp + "gate_proj", (d, f), (f, d)),
        ("blocks", "mlp", "up"): matrix(mlp + "up_proj", (d, f), (f, d)),
        ("blocks", "mlp", "down"): matrix(mlp + "down_proj", (f, d), (d, f)),
        ("final_norm",): Leaf(
            name="model.norm.weight", hf_shape=(d,), shape=(d,), stacked=False
        ),
    }

    def bias(name: str, shape: tuple[int, ...]) -> Leaf:
        return Leaf(name=name + ".bias", hf_shape=(math.prod(shape),), shape=shape)

    heads = {"q": n, "k": k, "v": k}
    for letter in heads if config.qkv_bias else ():
        leaf = bias(f"{attn}{letter}_proj", (heads[letter], h))
        leaves["blocks", "attn", f"{letter}_bias"] = leaf
    if config.attention_bias:
        leaves["blocks", "attn", "o_bias"] = bias(attn + "o_proj", (d,))
    for letter in "qk" if config.family.qk_norm == "head" else "":
        leaf = matrix(f"{attn}{letter}_norm", (h,), (h,))
        leaves["blocks", "attn", f"{letter}_norm"] = leaf
    for letter in "qk" if config.family.qk_norm == "all" else "":
        whole = (heads[letter] * h,)
        leaf = matrix(f"{attn}{letter}_norm", (heads[letter], h), whole)
        leaves["blocks", "attn", f"{letter}_norm_all"] = leaf
    widths = {"gate": f, "up": f, "down": d}
    for name in widths if config.mlp_bias else ():
        leaves["blocks", "mlp", f"{name}_bias"] = bias(
            f"{mlp}{name}_proj", (widths[name],)
        )
    if not config.tie_embeddings:
        leaves[("head",)] = Leaf(
            name="lm_head.weight", hf_shape=(v, d), shape=(d, v), stacked=False
        )
    return leaves


def unflatten(flat: dict[Path, object]) -> dict:
    """Returns the nested dictionary whose leaves are given by path."""
    tree: dict = {}
    for path, value in flat.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = value
    return tree


def leaf_at(tree: dict, path: Path) -> object:
    """Returns the leaf of a nested dictionary at ``path``."""
    for key in path:
        tree = tree[key]
    return tree


def hf_tensors(
    config: DecoderConfig, params: dict, dtype: np.dtype | None
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, host array) of every tensor of the Hugging Face file.

    One leaf at a time is fetched from the devices, so host memory holds one stacked
    leaf and what the caller keeps.
    """
    for path, leaf in layout(config).items():
        array = np.asarray(leaf_at(params, path))
        if dtype is not None:
            array = array.astype(dtype)
        slices = array if leaf.stacked else array[None]
        for name, part in zip(leaf.names(config.num_layers), slices, strict=True):
            yield name, leaf.to_hf(part)
