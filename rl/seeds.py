"""Seeds: 64 bits, all of which count.

``jax.random.key`` of an integer keeps its lower 32 bits and drops the others without a
word, and what others make of a negative or a larger integer differs. So there is one
range, and one way from a seed to a key.
"""

import jax
import numpy as np

from models.errors import UserError
from models.ranges import Range

SEEDS = 2**64
RANGE = Range(least=0, most=SEEDS - 1)
"""What the seed of a run may be."""


def check(name: str, seed: int) -> None:
    """Raises unless ``seed`` is from 0 to 2**64 - 1.

    Args:
      name: of the setting, for the message.
      seed: its value.

    Raises:
      UserError: it is not.
    """
    if not is_seed(seed):
        raise UserError(f"{name}={seed}: must be a whole number from 0 to 2**64 - 1")


def is_seed(seed: object) -> bool:
    """Whether ``seed`` is a whole number from 0 to 2**64 - 1."""
    whole = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
    return whole and 0 <= seed < SEEDS


def halves(seed: int) -> tuple[int, int]:
    """The upper and the lower 32 bits of a seed: the words of its key."""
    return int(seed) >> 32, int(seed) & 0xFFFFFFFF


def key(seed: int) -> jax.Array:
    """The key of a seed; below 2**32 it is ``jax.random.key(seed)``.

    Raises:
      UserError: for a number that is no seed.
    """
    check("seed", seed)
    words = np.asarray(halves(seed), np.uint32)
    return jax.random.wrap_key_data(words, impl="threefry2x32")
