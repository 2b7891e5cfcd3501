"""Rotary positions: which frequencies a checkpoint was trained with, and rotating.

Besides the plain frequencies (arXiv:2104.09864) there are three ways to stretch them to
longer contexts: all alike (arXiv:2306.15595), Llama 3's, and YaRN (arXiv:2309.00071).
The frequencies are computed in float64 on the host and rounded once, so that they are
constants of a program.
"""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from models.errors import UserError
from models.families import LAYER_TYPES, Family

Kind = Literal["default", "linear", "llama3", "yarn"]


@dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary frequencies; the names are those of Hugging Face's ``rope_parameters``.

    Attributes:
      rope_theta: base of the wavelengths.
      rope_type: how they are stretched; the other fields matter only if they are.
      factor: by how much the longest wavelengths are stretched.
      original_max_position_embeddings: context before stretching.
      low_freq_factor, high_freq_factor: llama3: between original / low and original /
        high, wavelengths change from stretched to unstretched.
      beta_fast, beta_slow: yarn: the same in rotations over the original context.
      truncate: yarn: round these bounds outwards to whole dimensions.
      attention_factor: yarn: cosine and sine are multiplied by it; None computes it
        from ``factor``, ``mscale`` and ``mscale_all_dim``.
      llama_4_scaling_beta: queries at position p are multiplied by
        1 + beta * log(1 + floor(p / original_max_position_embeddings)); 0: they aren't.
    """

    rope_theta: float = 10_000.0
    rope_type: Kind = "default"
    factor: float = 1.0
    original_max_position_embeddings: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    llama_4_scaling_beta: float = 0.0

    @classmethod
    def from_hf(cls, found: dict[str, Any], *, theta: float, length: int) -> "Rope":
        """Read ``rope_parameters``, or ``rope_scaling`` of an older file.

        Args:
          found: the dictionary.
          theta: used if ``found`` has none.
          length: the model's context: the original one unless ``found`` has another.

        Raises:
          UserError: for an unknown type, or one whose numbers are missing.
        """
        kind = found.get("rope_type", found.get("type", "default"))
        known = get_args(Kind)
        if kind not in known or found.get("partial_rotary_factor") not in (None, 1.0):
            name = "rope_type" if kind not in known else "partial_rotary_factor"
            raise UserError(
                f"{name}={found.get(name, kind)!r}: not supported: use a model that "
                f"rotates whole heads, with a rope_type of {', '.join(known)}"
            )
        given = {
            field.name: found[field.name]
            for field in fields(cls)
            if found.get(field.name) is not None
        }
        for name, value in given.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            # A 0 of these means that there is none.
            right = number and (value > 0 or name.startswith(("mscale", "llama_4")))
            if name not in ("rope_type", "truncate") and not right:
                raise UserError(
                    f"{name}={value!r}: must be a number above 0: use the model's own "
                    "config.json"
                )
        given |= {
            "rope_type": kind,
            "rope_theta": float(given.get("rope_theta", theta)),
        }
        if kind == "default":
            return cls(rope_theta=given["rope_theta"])
        needed = ("low_freq_factor", "high_freq_factor") if kind == "llama3" else ()
        for name in ("factor", *needed):
            if name not in given:
                raise UserError(
                    f"rope_type={kind!r}: {name} is missing: use the model's own "
                    "config.json"
                )
        if kind == "linear":
            return cls(
                rope_type=kind, **{k: given[k] for k in ("rope_theta", "factor")}
            )
        given.setdefault("original_max_position_embeddings", length)
        return cls(**given)

    def to_hf(self) -> dict[str, Any]:
        """The same as ``rope_parameters``."""
        names = ["rope_type", "rope_theta"]
        if self.rope_type != "default":
            names += ["factor"]
        if self.rope_type in ("llama3", "yarn"):
            names += ["original_max_position_embeddings"]
        if self.rope_type == "llama3":
            names += ["low_freq_factor", "high_freq_factor"]
        if self.rope_type == "yarn":
            names += ["beta_fast", "beta_slow", "truncate"]
            names += ["attention_factor", "mscale", "mscale_all_dim"]
        if self.llama_4_scaling_beta:
            names += ["llama_4_scaling_beta"]
        said = {name: getattr(self, name) for name in names}
        return {name: value for name, value in said.items() if value is not None}

    def frequencies(self, head_dim: int) -> tuple[np.ndarray, float]:
        """Radians per position [H / 2], and the factor of cosine and sine."""
        exponent = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
        plain = self.rope_theta**-exponent
        if self.rope_type == "linear":
            return (plain / self.factor).astype(np.float32), 1.0
        if self.rope_type == "llama3":
            return self._llama3(plain).astype(np.float32), 1.0
        if self.rope_type == "yarn":
            return self._yarn(plain, head_dim).astype(np.float32), self._yarn_scale()
        return plain.astype(np.float32), 1.0

    def _llama3(self, plain: np.ndarray) -> np.ndarray:
        """Long wavelengths stretched, short ones not, linear in between."""
        rotations = self.original_max_position_embeddings * plain / (2 * math.pi)
        low, high = self.low_freq_factor, self.high_freq_factor
        kept = np.clip((rotations - low) / (high - low), 0.0, 1.0)
        return (1 - kept) * plain / self.factor + kept * plain

    def _yarn(self, plain: np.ndarray, head_dim: int) -> np.ndarray:
        """The same, but linear in the dimension's index (equation 23 of the paper)."""

        def dimension(rotations: float) -> float:
            waves = self.original_max_position_embeddings / (rotations * 2 * math.pi)
            return head_dim * math.log(waves) / (2 * math.log(self.rope_theta))

        low, high = dimension(self.beta_fast), dimension(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        width = high - low or 0.001  # both bounds may fall on one dimension
        stretched = np.clip((np.arange(head_dim // 2) - low) / width, 0.0, 1.0)
        return stretched * plain / self.factor + (1 - stretched) * plain

    def _yarn_scale(self) -> float:
        def scale(mscale: float) -> float:
            return 0.1 * mscale * math.log(self.factor) + 1 if self.factor > 1 else 1.0

        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return scale(self.mscale) / scale(self.mscale_all_dim)
        return scale(1.0)


def read_ropes(config: dict[str, Any], family: Family) -> tuple[Rope, Rope | None]:
    """Frequencies of layers without a window, and of those with one if they differ.

    A ``config.json`` has ``rope_theta`` and ``rope_scaling`` (transformers 4), or
    ``rope_parameters`` (5), or both. Ours have both, which then say the same. Where
    they don't, transformers 5 takes one of them without a word, and may lose the base.

    In the old spelling, ``rope_theta`` is for all layers, as transformers 4 reads it,
    which wrote that spelling, unless the family has a base of its own for the layers
    with a window; transformers 5 gives OLMo-3's its own default instead.
    ``rope_scaling`` is for the layers without a window.

    Args:
      config: the whole ``config.json``.
      family: whether ``rope_parameters`` has an object for each kind of layer, and what
        stands for missing bases.

    Raises:
      UserError: for contradictions, and what ``Rope.from_hf`` refuses.
    """
    length = family.read(config, "max_position_embeddings") or 32_768
    theta = float(family.read(config, "rope_theta") or 10_000.0)
    given = config.get("rope_parameters")
    if given is None and not config.get("rope_scaling"):
        given = family.defaults.get("rope_parameters")
    found = given or {}
    full, sliding = found, None
    if family.rope_by_kind:
        full, sliding = _by_kind(found)
    elif nested := [name for name, value in found.items() if isinstance(value, dict)]:
        raise UserError(
            f"rope_parameters.{nested[0]}: this model type has the same frequencies in "
            "all layers: put its fields directly into rope_parameters"
        )
    _check_base(config, "rope_theta", full)
    rope = Rope.from_hf(full, theta=theta, length=length)
    if scaling := config.get("rope_scaling"):
        scaled = Rope.from_hf(scaling, theta=rope.rope_theta, length=length)
        if full and scaled != rope:
            raise UserError(
                f"rope_scaling={scaling} and rope_parameters={full}: contradict each "
                "other: put the scaling into rope_parameters, beside rope_theta"
            )
        rope = scaled
    if sliding is None:
        return rope, None
    if family.local_base:
        theta = float(config.get(family.local_base) or family.local_theta)
        _check_base(config, family.local_base, sliding)
    return rope, Rope.from_hf(sliding, theta=theta, length=length)


def _check_base(config: dict[str, Any], name: str, found: dict[str, Any]) -> None:
    """Raises ``UserError`` if a file has two bases for the same layers."""
    given = config.get(name)
    if given and found.get("rope_theta", given) != given:
        raise UserError(
            f"{name}={given} and rope_parameters.rope_theta={found['rope_theta']}: "
            "contradict each other: remove the wrong one from config.json"
        )


def _by_kind(found: dict[str, Any]) -> tuple[dict, dict]:
    """The objects of the two kinds of layers; empty where there is none."""
    full, sliding = (found.get(name) or {} for name in LAYER_TYPES)
    if not (isinstance(full, dict) and isinstance(sliding, dict)):
        raise UserError(
            f"rope_parameters={found!r}: must have an object for each kind of layer: "
            "use the model's own config.json"
        )
    if found and not (full or sliding):
        raise UserError(
            f"rope_parameters: has neither {' nor '.join(LAYER_TYPES)}, which differ "
            "in this family: use the model's own config.json"
        )
    return full, sliding


class Angles(NamedTuple):
    """What rotates the tokens of a batch; H2 = head_dim / 2.

    Attributes:
      cos, sin: of the rotary angles, float32.
      queries: what rotated queries are multiplied by; None: they aren't.
    """

    cos: Float[Array, "B T 1 H2"]
    sin: Float[Array, "B T 1 H2"]
    queries: Float[Array, "B T 1 1"] | None = None


def rope_table(positions: Int[Array, "B T"], head_dim: int, rope: Rope) -> Angles:
    """The rotary angles of positions."""
    frequencies, scale = rope.frequencies(head_dim)
    angles = positions[..., None, None].astype(jnp.float32) * frequencies
    queries = None
    if beta := rope.llama_4_scaling_beta:
        whole = positions // rope.original_max_position_embeddings
        queries = 1 + beta * jnp.log1p(whole[..., None, None].astype(jnp.float32))
    return Angles(jnp.cos(angles) * scale, jnp.sin(angles) * scale, queries)


def apply_rope(x: Float[Array, "B T N H"], angles: Angles) -> Float[Array, "B T N H"]:
    """Rotate the pairs (i, i + H/2), as Hugging Face checkpoints expect."""
    left, right = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = angles.cos, angles.sin
    rotated = (left * cos - right * sin, right * cos + left * sin)
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)


def rotated_pair(
    q: Float[Array, "B T N H"], k: Float[Array, "B T K H"], angles: Angles | None
) -> tuple[Float[Array, "B T N H"], Float[Array, "B T K H"]]:
    """Queries and keys at their positions; as they are in a layer without any."""
    if angles is None:
        return q, k
    q, k = apply_rope(q, angles), apply_rope(k, angles)
    if angles.queries is not None:
        q = q * angles.queries.astype(q.dtype)
    return q, k
