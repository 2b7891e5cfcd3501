"""bench.py update: the work, what is counted, and what it says of an accelerator."""

import argparse
import dataclasses

import jax
import numpy as np
import pytest

from benchmarks import harness, turns, update, workloads
from models import sharding
from rl.learner.config import UpdateConfig
from rl.learner.update import Updater


def arguments(*options):
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", action="append", default=[])
    parser.add_argument("--repeats", type=int, default=1)
    update.add_arguments(parser)
    return parser.parse_args(options)


def test_rollouts_are_ragged_groups_with_several_turns():
    work = workloads.rollouts(1000, groups=2)
    assert work == workloads.rollouts(1000, groups=2)
    assert [row.group for row in work] == [0] * 8 + [1] * 8
    assert len({row.ids[: row.prompt] for row in work}) == 2
    for group in (work[:8], work[8:]):
        advantages = [row.advantage for row in group]
        assert np.mean(advantages) == pytest.approx(0, abs=1e-9)
        assert np.std(advantages, ddof=1) == pytest.approx(1)
    lengths = [len(row.ids) for row in work]
    assert 0.5 < np.mean(lengths) / max(lengths) < 0.75
    turns = [np.sum(np.diff(row.loss_mask) == 1) for row in work]
    assert min(turns) == 1 and max(turns) >= 3
    assert all(sum(row.loss_mask[: row.prompt]) == 0 for row in work)
    assert all(row.loss_mask[-1] for row in work)


def test_old_logprobs_are_the_models_own_and_a_little_off(tiny_config, tiny_params):
    shape = UpdateConfig(length=896, rows=1, capacity=1, logit_chunk=128)
    updater = Updater(
        tiny_config, update.LOSS, update.OPTIMIZER, shape, sharding.make_mesh()
    )
    work = workloads.rollouts(tiny_config.vocab_size, groups=1)[:2]
    done = update.with_logprobs(updater, tiny_params, work)
    datums = [update.datum_of(i, row) for i, row in enumerate(done)]
    state = updater.states.init(tiny_params)
    _, metrics = updater.update_mini_batch(state, {}, updater.pack(datums))
    # The mean of |N(0, 0.15)|.
    assert metrics["agree/mean"] == pytest.approx(0.15 * (2 / np.pi) ** 0.5, rel=0.15)


def test_ours_trains_on_every_token_that_is_counted(tiny_config):
    result = update.beside_peers(
        tiny_config, arguments("--groups", "1", "--length", "896")
    )
    work = workloads.rollouts(tiny_config.vocab_size, groups=1)
    assert result.amount == sum(len(row.ids) for row in work)
    assert result.notes["most that a weight moved"] > 5e-6
    assert 0.5 < result.notes["share of positions that hold a token, ours"] <= 1
    assert len(result.seconds["ours"]) == 1


def test_flops_of_an_accelerator_are_counted_by_hand(tiny_config):
    length, micro = 64, 2
    options = ("--length", str(length), "--micro", str(micro), "--rows", "2")
    result = update.on_an_accelerator(tiny_config, arguments(*options))
    c, tokens = tiny_config, 2 * micro * length
    # 6 a parameter and token, the table that is only looked up in left out.
    heads = c.head_dim * (2 * c.num_heads + 2 * c.num_kv_heads)
    layer = c.hidden_size * (heads + 3 * c.intermediate_size)
    weights = c.num_layers * layer + c.hidden_size * c.vocab_size
    # Two products forward and four backward, each token before half of the others.
    pairs = 12 * c.num_layers * c.num_heads * c.head_dim * length / 2
    assert result.amount == tokens
    flops = result.notes["FLOP/s"] * result.seconds["ours"][0]
    assert flops == pytest.approx((6 * weights + pairs) * tokens, rel=0.01)
    assert result.notes["MFU"] is None  # a CPU has no data sheet here
    planned, taken = (
        result.notes[f"memory {name}, bytes"]
        for name in ("by the plan", "of the compiled program")
    )
    assert result.notes["plan over program"] == pytest.approx(planned / taken)


def test_a_data_sheet_makes_it_a_share(tiny_config, monkeypatch):
    kind = jax.devices()[0].device_kind
    monkeypatch.setitem(harness.DATA_SHEETS, kind, (1e11, 1e12))
    result = update.on_an_accelerator(tiny_config, arguments("--length", "64"))
    assert result.notes["MFU"] == pytest.approx(result.notes["FLOP/s"] / 1e12)
    assert harness.DATA_SHEETS["NVIDIA H100 80GB HBM3"] == (3.35e12, 989e12)


def test_trl_gets_the_same_tokens_padded_no_further_than_needed():
    pytest.importorskip("torch")
    from benchmarks import peer_trl

    work = [
        dataclasses.asdict(dataclasses.replace(row, logprobs=(-1.0,) * len(row.ids)))
        for row in workloads.rollouts(1000, groups=1)
    ]
    out = {name: value.numpy() for name, value in peer_trl.padded(work).items()}
    for i, row in enumerate(work):
        prompt = out["prompt_ids"][i][out["prompt_mask"][i] > 0]
        rest = out["completion_ids"][i][out["completion_mask"][i] > 0]
        assert tuple(np.concatenate([prompt, rest])) == row["ids"]
        mask = out["tool_mask"][i][out["completion_mask"][i] > 0]
        assert tuple(mask) == row["loss_mask"][row["prompt"] :]
    assert (out["prompt_mask"].sum(0) > 0).all()
    assert (out["completion_mask"].sum(0) > 0).all()
    assert out["num_items_in_batch"] == sum(sum(row["loss_mask"]) for row in work)


def test_turns_are_trained_by_themselves_and_all_of_them_once():
    row = workloads.rollouts(100, groups=1)[0]
    whole = update.datum_of(0, row)
    found = turns.turns_of(whole)
    assert [datum.turn for datum in found] == list(range(len(found)))
    assert len(found) == np.sum(np.diff(row.loss_mask) == 1)
    for datum in found:
        assert datum.ids == whole.ids[: len(datum.ids)]
        assert datum.loss_mask[-1] == 1
    assert sum(sum(datum.loss_mask) for datum in found) == sum(whole.loss_mask)
