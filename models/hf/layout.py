"""Maps every tensor of a Hugging Face decoder to its place in our parameter tree.

All families use the same tensor names, except for the norms. The other differences
(biases, query and key norms, tied embeddings) come from the ``DecoderConfig``. PyTorch
stores a projection as ``[out, in]``; ours is ``[in, out]`` with the out (or in) axis
split into heads, so ``ours = theirs.T.reshape(shape)`` holds for every tensor but the
embedding.
"""

import math
from dataclasses import dataclass

import numpy as np

from models.config import DecoderConfig
from models.families import NORMS

Path = tuple[str, ...]

# How names of the text model begin in a model that also sees images: as on the hub, and
# as transformers 4.52 and later name them in memory.
TEXT_NAMES = {
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "model.language_model.": "model.",
}


def text_name(name: str) -> str:
    """A tensor's name in a model of text alone, of one that also sees images."""
    begin = next((begin for begin in TEXT_NAMES if name.startswith(begin)), "")
    return TEXT_NAMES.get(begin, "") + name.removeprefix(begin)


def name_among_images(name: str) -> str:
    """The name in a model that also sees images, in memory; see ``text_name``."""
    return name.replace("model.", "model.language_model.", 1)


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """One parameter: its Hugging Face name, both shapes, and how they relate.

    Attributes:
      name: tensor name; if ``stacked``, ``{}`` stands for the layer.
      hf_shape: shape of one tensor in the file.
      shape: our shape, without the leading L if ``stacked``.
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

    def full_shape(self, num_layers: int) -> tuple[int, ...]:
        """Returns the shape of the whole leaf, including the layer axis."""
        return (num_layers, *self.shape) if self.stacked else self.shape

    def window(self, index: tuple[slice, ...]) -> tuple[range, range]:
        """Returns the rows and columns of the file's tensor for a part of our array.

        Args:
          index: the part of one layer's array: one slice per axis of ``shape``.
        """
        if len(self.hf_shape) == 1:
            return range(1), _joined(self.shape, index)
        if not self.transposed:
            return _joined(self.shape[:1], index[:1]), _joined(
                self.shape[1:], index[1:]
            )
        columns = self.hf_shape[1]
        # Our leading axes are the file's columns: one axis, or heads and head width.
        cut = next(
            i for i in range(len(self.shape)) if math.prod(self.shape[:i]) == columns
        )
        return _joined(self.shape[cut:], index[cut:]), _joined(
            self.shape[:cut], index[:cut]
        )

    def place(self, part: np.ndarray, rows: range, chunk: np.ndarray) -> None:
        """Writes rows of the file's tensor into a part of our array.

        Args:
          part: the part that ``window`` was called for, contiguous, of any dtype.
          rows: which rows of the window, counted from its first.
          chunk: these rows, only the window's columns, in the dtype of ``part``.
        """
        columns = chunk.shape[1]
        if self.transposed and len(self.hf_shape) == 2:
            target = part.reshape(columns, -1)[:, rows.start : rows.stop]
            copy_transposed(target, chunk)
        else:
            target = part.reshape(-1, columns)[rows.start : rows.stop]
            _bits(target)[...] = _bits(chunk)

    def to_hf(self, array: np.ndarray) -> np.ndarray:
        """Returns one layer's array in the file's layout, contiguous."""
        if not self.transposed or len(self.hf_shape) == 1:
            return np.ascontiguousarray(array).reshape(self.hf_shape)
        out = np.empty(self.hf_shape, array.dtype)
        copy_transposed(out, array.reshape(self.hf_shape[::-1]))
        return out


def _joined(axes: tuple[int, ...], index: tuple[slice, ...]) -> range:
    """Returns the range of an index over flattened axes; only the first may be cut."""
    if any(s.indices(n) != (0, n, 1) for s, n in zip(index[1:], axes[1:], strict=True)):
        raise ValueError(f"{index} of {axes}: only the first axis may be cut")
    start, stop, _ = index[0].indices(axes[0])
    inner = math.prod(axes[1:])
    return range(start * inner, stop * inner)


def copy_transposed(target: np.ndarray, source: np.ndarray) -> None:
    """Copies ``source.T`` into ``target``, both of one dtype.

    In strips of 64 rows, which stay in the CPU's cache: 20 times faster than a single
    assignment.
    """
    target, source = _bits(target), _bits(source)
    for start in range(0, source.shape[0], 64):
        strip = slice(start, start + 64)
        target[:, strip] = source[strip].T


def _bits(array: np.ndarray) -> np.ndarray:
    """The same memory as integers: numpy copies bfloat16 one element at a time."""
    return array.view(f"u{array.itemsize}")


def layout(config: DecoderConfig) -> dict[Path, Leaf]:
    """Returns every leaf of the parameter tree of ``config``, keyed by path."""
    d, f, v = config.hidden_size, config.intermediate_size, config.vocab_size
    n, k, h = config.num_heads, config.num_kv_heads, config.head_dim
    attn, mlp = "model.layers.{}.self_attn.", "model.layers.{}.mlp."

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
        ("blocks", "attn", "q"): matrix(attn + "q_proj", (d, n, h), (n * h, d)),
        ("blocks", "attn", "k"): matrix(attn + "k_proj", (d, k, h), (k * h, d)),
        ("blocks", "attn", "v"): matrix(attn + "v_proj", (d, k, h), (k * h, d)),
        ("blocks", "attn", "o"): matrix(attn + "o_proj", (n, h, d), (d, n * h)),
        ("blocks", "mlp", "gate"): matrix(mlp + "gate_proj", (d, f), (f, d)),
        ("blocks", "mlp", "up"): matrix(mlp + "up_proj", (d, f), (f, d)),
        ("blocks", "mlp", "down"): matrix(mlp + "down_proj", (f, d), (d, f)),
        ("final_norm",): Leaf(
            name="model.norm.weight", hf_shape=(d,), shape=(d,), stacked=False
        ),
    }

    for ours, name in NORMS[config.family.norms].items():
        leaves["blocks", ours] = matrix(f"model.layers.{{}}.{name}", (d,), (d,))

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
    """Returns the nested dictionary of leaves that are keyed by path."""
    tree: dict = {}
    for path, value in flat.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = value
    return tree


def flatten(tree: dict, path: Path = ()) -> dict[Path, object]:
    """Returns the leaves of a nested dictionary, keyed by path."""
    flat: dict[Path, object] = {}
    for key, value in tree.items():
        inner = (*path, key)
        flat |= flatten(value, inner) if isinstance(value, dict) else {inner: value}
    return flat
