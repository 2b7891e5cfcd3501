"""The order of items: without replacement, reshuffled, and a function of the step."""

import numpy as np
import pytest

from rl.learner.data_order import order


def test_an_epoch_has_whole_batches_without_replacement():
    epoch = np.concatenate([order(11, seed=1, step=s, batch=3) for s in range(3)])
    assert len(set(epoch.tolist())) == 9
    assert set(epoch.tolist()) <= set(range(11))


@pytest.mark.quirk(49)
def test_each_epoch_has_its_own_order():
    epochs = [
        np.concatenate([order(12, seed=1, step=s + 4 * e, batch=3) for s in range(4)])
        for e in range(3)
    ]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(12))
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 3


def test_the_step_alone_decides_and_seeds_differ():
    late_first = order(100, seed=1, step=9, batch=4)
    for step in range(9):
        order(100, seed=1, step=step, batch=4)
    np.testing.assert_array_equal(late_first, order(100, seed=1, step=9, batch=4))
    assert order(100, seed=2, step=9, batch=4).tolist() != late_first.tolist()


def test_fewer_items_than_a_batch_repeat_evenly():
    counts = np.bincount(order(3, seed=0, step=5, batch=8), minlength=3)
    assert counts.sum() == 8
    assert counts.min() >= 2 and counts.max() <= 4


def test_no_items_is_refused():
    with pytest.raises(ValueError, match="0 items"):
        order(0, seed=0, step=0, batch=2)
