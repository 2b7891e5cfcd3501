"""Turns that share their history: each token once, and the gradients of whole turns."""

import dataclasses

import jax
import numpy as np
import pytest

from models import sharding
from models.errors import UserError
from rl.learner.config import UpdateConfig
from rl.learner.histories import Part, bundles
from rl.learner.losses import LossConfig
from rl.learner.optimizer import OptimizerConfig
from rl.learner.packing import pack
from rl.learner.update import Updater
from rl.records import Datum
from tests.rl.learner.test_update import VALID, distance

pytestmark = pytest.mark.usefixtures("compiled_quickly")

LOSS = LossConfig(clip_high=0.28, kl_coefficient=0.1)
OPTIMIZER = OptimizerConfig(learning_rate=3e-3, clip_norm=100.0)
SHAPE = UpdateConfig(length=96, rows=2, capacity=2, logit_chunk=16)


def conversation(number, turns=3, seed=0):
    """Turns as Qwen3 trains them: thinking is sampled, and not in later histories."""
    rng = np.random.default_rng(seed + number)

    def ids(low, high):
        return tuple(int(t) for t in rng.integers(0, VALID, rng.integers(low, high)))

    history, found = ids(5, 9), []
    for turn in range(turns):
        thinking, said = ids(2, 6), ids(3, 7)
        own = thinking + said
        mask = (0,) * len(history) + (1,) * len(own)
        found.append(
            Datum(
                uid=f"1/solver/0/{number}/0",
                turn=turn,
                ids=history + own,
                loss_mask=mask,
                sampled_mask=mask,
                logprobs=tuple(-4.0 if m else float("nan") for m in mask),
                advantage=float(rng.normal()),
            )
        )
        history += said + ids(4, 8)  # what the search found
    return found


def conversations(count=4):
    return [datum for number in range(count) for datum in conversation(number)]


def test_the_last_turn_is_the_trunk_and_the_others_begin_where_they_part():
    datums = conversation(0)
    assert bundles(datums, 96, share=False) == [(Part(0),), (Part(1),), (Part(2),)]
    (bundle,) = bundles(datums, 96, share=True)
    assert [part.index for part in bundle] == [2, 1, 0]
    trunk, *branches = bundle
    assert trunk.first == 0
    for part in branches:
        own = datums[part.index]
        whole = datums[2].ids
        assert own.ids[: part.first + 1] == whole[: part.first + 1]
        assert not any(own.loss_mask[: part.first + 1])  # all that is trained is there
        assert own.loss_mask[part.first + 1]  # and nothing before it is there twice


def test_turns_that_do_not_fit_beside_the_trunk_are_trunks_of_the_rest():
    datums = conversation(0, turns=4)
    sizes = [len(datum.ids) - 1 for datum in datums]
    length = sizes[3]
    found = bundles(datums, length, share=True)
    assert sorted(part.index for one in found for part in one) == [0, 1, 2, 3]
    for one in found:
        assert sum(part.size(datums) for part in one) <= length
    assert found[-1] == (Part(3),) and len(found) < 4


def test_conversations_do_not_share_with_one_another():
    twice = conversation(0) + [
        dataclasses.replace(datum, uid="1/solver/0/9/0") for datum in conversation(0)
    ]
    assert len(bundles(twice, 96, share=True)) == 2


def test_a_packed_branch_holds_the_rest_of_its_datum():
    datums = conversations(1)
    batch = pack(datums, rows=1, length=96, share_history=True)
    arrays = {name: values[0, 0] for name, values in batch.arrays.items()}
    (bundle,) = bundles(datums, 96, share=True)
    start = 0
    for segment, part in enumerate(bundle, 1):
        datum, stop = datums[part.index], start + part.size(datums)
        here = slice(start, stop)
        np.testing.assert_array_equal(
            arrays["tokens"][here], datum.ids[part.first : -1]
        )
        np.testing.assert_array_equal(
            arrays["targets"][here], datum.ids[part.first + 1 :]
        )
        places = np.arange(part.first, len(datum.ids) - 1)
        np.testing.assert_array_equal(arrays["positions"][here], places)
        trained = sum(datum.loss_mask)
        assert arrays["loss_mask"][here].sum() == trained
        assert (arrays["segment_ids"][here] == segment).all()
        assert (arrays["cuts"][here] == part.first).all()
        assert (arrays["parents"][here] == (1 if part.first else 0)).all()
        start = stop
    whole = sum(len(datum.ids) - 1 for datum in datums)
    assert (arrays["segment_ids"] > 0).sum() == start < 0.75 * whole


WINDOW = {"window": 5, "window_layers": (True, False)}
CASES = {
    "blocked": ({}, {}, {}),
    "reference": ({}, {"attention": "reference"}, {}),
    "window": (WINDOW, {}, {}),
    "sequence": ({}, {}, {"ratio": "sequence", "kl_coefficient": 0.0}),
    "four devices": ({}, {"rows": 4}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_whole_turns(tiny_config, tiny_params, case):
    model, update, loss = CASES[case]
    config = dataclasses.replace(tiny_config, **model)
    mesh = sharding.make_mesh(1, 4 if case == "four devices" else 1, 1)
    found = {}
    for share in (False, True):
        shape = dataclasses.replace(SHAPE, share_history=share, **update)
        own = dataclasses.replace(LOSS, **loss)
        updater = Updater(config, own, OPTIMIZER, shape, mesh, valid_vocab=VALID)
        reference = jax.tree.map(lambda x: x * 0.9, tiny_params)
        state, metrics = updater.update_mini_batch(
            updater.states.init(tiny_params),
            updater.states.reference_params(reference),
            updater.pack(conversations()),
        )
        found[share] = jax.device_get(state.opt_state.mu), metrics
    assert distance(found[True][0], found[False][0]) < 1e-5
    for name in ("loss/total", "loss/entropy", "loss/tokens", "agree/max"):
        one, other = (found[share][1][name] for share in (True, False))
        assert one == pytest.approx(other, rel=1e-5, abs=1e-7), name


def test_attention_that_cannot_is_refused(tiny_config):
    update = dataclasses.replace(SHAPE, share_history=True, attention="cudnn")
    mesh = sharding.make_mesh(1, 1, 1)
    with pytest.raises(UserError, match="does not support branches: use one of"):
        Updater(tiny_config, LOSS, OPTIMIZER, update, mesh)
