"""Packing: every token once, nothing cut, the same rows in whatever order they came."""

import json
from pathlib import Path

import numpy as np
import pytest

from rl.learner.losses import LossConfig
from rl.learner.packing import datum_order, pack
from rl.records import Datum

DATA = Path(__file__).parents[2] / "data"


def make_datum(index, ids=7, prompt=3, **fields):
    mask = (0,) * prompt + (1,) * (ids - prompt)
    values = {
        "uid": f"1/solver/0/{index}/0",
        "turn": 0,
        "ids": tuple(100 * (index % 100) + i for i in range(ids)),
        "loss_mask": mask,
        "sampled_mask": mask,
        "logprobs": tuple(-0.5 if m else float("nan") for m in mask),
        "advantage": float(index),
    }
    return Datum(**(values | fields))


def make_datums(count=13, seed=0):
    rng = np.random.default_rng(seed)
    return [make_datum(i, ids=int(rng.integers(4, 18))) for i in range(count)]


def unpacked(batch):
    """{datum's advantage: its fields} read back from the packed arrays."""
    out = {}
    flat = {k: v.reshape(-1, v.shape[-1]) for k, v in batch.arrays.items()}
    for row in range(len(flat["tokens"])):
        for segment in range(1, flat["segment_ids"][row].max() + 1):
            at = flat["segment_ids"][row] == segment
            fields = {k: v[row][at] for k, v in flat.items()}
            out[float(fields["advantages"][0])] = fields
    return out


def test_every_datum_comes_back_shifted_by_one():
    datums = make_datums()
    batch = pack(datums, rows=2, length=24)
    found = unpacked(batch)
    assert len(found) == len(datums)
    for datum in datums:
        got = found[datum.advantage]
        n = len(datum.ids)
        np.testing.assert_array_equal(got["tokens"], datum.ids[:-1])
        np.testing.assert_array_equal(got["targets"], datum.ids[1:])
        np.testing.assert_array_equal(got["positions"], np.arange(n - 1))
        np.testing.assert_array_equal(got["loss_mask"], datum.loss_mask[1:])
        np.testing.assert_array_equal(got["sampled_mask"], datum.sampled_mask[1:])
        want = np.nan_to_num(np.array(datum.logprobs[1:]), nan=0.0)
        np.testing.assert_array_equal(got["sampler_logprobs"], np.float32(want))


@pytest.mark.quirk(18)
def test_padding_is_out_of_every_sum():
    batch = pack(make_datums(), rows=4, length=24, capacity=4)
    padding = batch.arrays["segment_ids"] == 0
    assert padding.any()
    for name in ("tokens", "loss_mask", "sampled_mask", "weights", "advantages"):
        assert not batch.arrays[name][padding].any()


def test_order_of_arrival_changes_nothing():
    datums = make_datums(20)
    shuffled = [datums[i] for i in np.random.default_rng(1).permutation(20)]
    one, two = (pack(d, rows=2, length=24) for d in (datums, shuffled))
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array, two.arrays[name])


def test_uids_are_ordered_by_their_numbers():
    datums = [make_datum(i) for i in (10, 2, 1)]
    datums.append(make_datum(2, turn=1))
    got = [(d.uid.split("/")[3], d.turn) for d in sorted(datums, key=datum_order)]
    assert got == [("1", 0), ("2", 0), ("2", 1), ("10", 0)]


def test_rows_are_filled():
    # Sizes 8, 6, 4, 2 of 10: {8, 2} and {6, 4}.
    datums = [make_datum(i, ids=n) for i, n in enumerate((7, 9, 5, 3))]
    for d, n in zip(datums, (7, 9, 5, 3), strict=True):
        assert len(d.ids) == n
    batch = pack(datums, rows=1, length=10)
    assert batch.num_micro == 2
    assert batch.fill == 1.0


@pytest.mark.parametrize("role", ["challenger", "solver"])
def test_padding_of_a_recorded_trace_is_below_5_percent(role):
    """Rows three times as long as the longest datum."""
    trace = json.loads((DATA / "lengths.json").read_text())[role]
    assert max(ids for ids, _ in trace) <= 1024 // 2.9
    datums = [make_datum(i, ids=n, prompt=n - k) for i, (n, k) in enumerate(trace)]
    batch = pack(datums, rows=1, length=1024)
    assert not batch.dropped and (batch.arrays["segment_ids"] > 0).sum() == sum(
        ids - 1 for ids, _ in trace
    )
    assert batch.fill > 0.95


def test_many_datums_per_row_leave_no_padding_but_the_last_rows():
    rng = np.random.default_rng(0)
    sizes = np.minimum(rng.lognormal(5.5, 0.7, 500).astype(int) + 4, 2000)
    datums = [make_datum(i, ids=int(n)) for i, n in enumerate(sizes)]
    assert pack(datums, rows=1, length=2048).fill > 0.98


def test_rows_of_a_micro_batch_cost_about_the_same():
    """Devices wait for the costliest row beside theirs."""
    rng = np.random.default_rng(1)
    datums = [make_datum(i, ids=int(rng.integers(20, 200))) for i in range(60)]
    batch = pack(datums, rows=4, length=200)

    def cost(row):
        return sum(np.bincount(row)[1:] ** 2)

    costs = [[cost(row) for row in micro] for micro in batch.arrays["segment_ids"]]
    waited = sum(max(micro) for micro in costs) * 4
    flat = sorted((cost for micro in costs for cost in micro), reverse=True)
    best = 4 * sum(flat[::4])
    assert waited <= 1.02 * best
    spread = [costs[i // 4][i % 4] for i in rng.permutation(len(flat))]
    unsorted = 4 * sum(max(spread[i : i + 4]) for i in range(0, len(spread), 4))
    assert waited < 0.9 * unsorted


def test_a_datum_longer_than_a_row_is_reported_and_not_cut():
    datums = [make_datum(0, ids=12), make_datum(1, ids=11)]
    batch = pack(datums, rows=1, length=10)
    assert batch.dropped == (("1/solver/0/0/0", 0, 12),)
    assert (batch.arrays["segment_ids"] > 0).sum() == 10
    # Nor does it weigh: the mean is over the datum that stayed.
    assert batch.arrays["weights"].sum() == pytest.approx(1.0)


def test_row_mean_gives_every_datum_the_same_weight():
    batch = pack(
        make_datums(), rows=2, length=24, loss=LossConfig(aggregation="row_mean")
    )
    sums = [f["weights"].sum() for f in unpacked(batch).values()]
    np.testing.assert_allclose(sums, 1 / 13, rtol=1e-6)


def test_micro_batches_are_padded_to_the_capacity():
    few = pack(make_datums(5), rows=1, length=24, capacity=8)
    assert few.arrays["tokens"].shape == (8, 1, 24)
    assert 1 <= few.num_micro < 8
    many = pack(make_datums(40), rows=1, length=24, capacity=8)
    assert many.arrays["tokens"].shape[0] % 8 == 0
    assert many.num_micro > 8


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss_mask": (1,) * 7}, "first token"),
        ({"loss_mask": (0, 1)}, "same length"),
        ({"logprobs": (float("nan"),) * 7}, "no finite log-prob"),
        ({"advantage": float("inf")}, "advantage inf"),
    ],
)
def test_a_datum_that_does_not_fit_together_is_named(fields, message):
    with pytest.raises(ValueError, match=message) as error:
        pack([make_datum(3, **fields)], rows=1, length=10)
    assert "1/solver/0/3/0" in str(error.value)


NAN = float("nan")


def test_what_no_loss_reads_makes_no_array():
    full = {"teacher_logprobs": (-1.0,) * 7, "outcome": 1.0, "likelihood_weight": 2.0}
    plain = pack([make_datum(3)], rows=1, length=10)
    assert set(pack([make_datum(3, **full)], rows=1, length=10).arrays) == set(
        plain.arrays
    )


def test_fields_of_single_losses_are_packed_beside_their_tokens():
    teacher = (NAN, NAN, NAN, -1.5, NAN, -2.5, -3.5)
    each = (9.0, 9.0, NAN, 0.1, 0.2, 0.3, 0.4)
    datums = [
        make_datum(1, teacher_logprobs=teacher, teacher_weight=0.5, outcome=1.0),
        make_datum(2, ids=5, advantages=(0.0, 0.0, 0.0, 7.0, 8.0), group_rate=0.25),
        make_datum(3, advantages=each, old_logprobs=(*teacher[:6], NAN)),
    ]
    arrays = {}
    for loss in (LossConfig(distillation=1.0), LossConfig(policy="nft")):
        arrays |= pack(datums, rows=1, length=40, loss=loss).arrays
    at = [arrays["segment_ids"][0, 0] == segment for segment in (1, 2, 3)]
    got = {name: [values[0, 0][one] for one in at] for name, values in arrays.items()}
    np.testing.assert_allclose(got["teacher_logprobs"][0], [0, 0, -1.5, 0, -2.5, -3.5])
    np.testing.assert_array_equal(got["teacher_weights"][0], [0, 0, 0.5, 0, 0.5, 0.5])
    assert not got["teacher_weights"][1].any()
    np.testing.assert_allclose(got["advantages"][0], 1.0)
    np.testing.assert_allclose(got["advantages"][1], [0, 0, 7, 8])
    np.testing.assert_allclose(got["advantages"][2], [0, 0, 0.1, 0.2, 0.3, 0.4])
    assert [one[0] for one in got["outcomes"]] == [1, 0, 0]
    assert [one[0] for one in got["group_rates"]] == [0, 0.25, 0]
    np.testing.assert_array_equal(got["stored_mask"][2], [0, 0, 1, 0, 1, 0])
    np.testing.assert_allclose(got["stored_logprobs"][2], [0, 0, -1.5, 0, -2.5, 0])
    assert not got["stored_mask"][0].any()


def test_likelihoods_are_averaged_over_the_datums_that_have_one():
    datums = [make_datum(1, likelihood_weight=2.0), make_datum(2), make_datum(3, ids=9)]
    datums[2] = make_datum(3, ids=9, likelihood_weight=0.5)
    for kind, want in (
        ("token_mean", (2 / 10, 0, 0.5 / 10)),
        ("row_mean", (2 / 4 / 2, 0, 0.5 / 6 / 2)),
    ):
        loss = LossConfig(likelihood=1.0, aggregation=kind)
        arrays = pack(datums, rows=1, length=40, loss=loss).arrays
        for segment, weight in enumerate(want, start=1):
            at = (arrays["segment_ids"] == segment) & (arrays["loss_mask"] == 1)
            np.testing.assert_allclose(arrays["likelihood_weights"][at], weight)
        outside = arrays["loss_mask"] == 0
        assert not arrays["likelihood_weights"][outside].any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"advantages": (0.0,) * 6}, "6 advantages for 7 ids"),
        ({"advantages": (NAN,) * 7}, "advantages of a token in the loss"),
        ({"teacher_logprobs": (float("-inf"),) * 7}, "teacher_logprobs of a token"),
        ({"old_logprobs": (float("-inf"),) * 7}, "old_logprobs of a token"),
        ({"teacher_weight": -1.0}, "teacher_weight -1.0"),
        ({"likelihood_weight": NAN}, "likelihood_weight nan"),
        ({"outcome": 0.5}, "outcome 0.5"),
        ({"group_rate": 1.5}, "group_rate 1.5"),
    ],
)
def test_a_field_of_a_single_loss_that_does_not_fit_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        pack([make_datum(3, **fields)], rows=1, length=10)
