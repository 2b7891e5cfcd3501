"""Which items a training step uses: a function of seed and step, with no state."""

import functools

import grain
import numpy as np
from jaxtyping import Int


@functools.lru_cache(maxsize=8)
def _dataset(num_items: int, seed: int, batch: int) -> grain.MapDataset:
    shuffled = grain.MapDataset.range(num_items).seed(seed).shuffle()
    if num_items < batch:
        # A batch takes more than one epoch: epochs follow one another inside it.
        return shuffled.repeat().batch(batch)
    # ``repeat`` after ``shuffle`` draws a new permutation each epoch.
    return shuffled.batch(batch, drop_remainder=True).repeat()


def order(
    num_items: int, *, seed: int, step: int, batch: int
) -> Int[np.ndarray, " batch"]:
    """Returns the items of training step ``step``: the data position is the step.

    Within an epoch no item repeats; a remainder of fewer than ``batch`` items is left
    out, and each epoch has an order of its own. Where there are fewer items than
    ``batch``, epochs follow one another inside it and items repeat about equally.

    Args:
      num_items: number of items to choose from.
      seed: decides every order.
      step: 0 for the first step of training.
      batch: items per step.

    Raises:
      ValueError: if there are no items.
    """
    if num_items < 1:
        raise ValueError(f"{num_items} items to train on: give at least one")
    return np.asarray(_dataset(num_items, seed, batch)[step])
