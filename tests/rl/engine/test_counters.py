"""What the engines did in a step: differences, restarts, several engines as one."""

import pytest

from rl.engine import counters as engines
from rl.engine.counters import COUNTERS, Meter


def counted(*numbers):
    return dict(zip(COUNTERS, map(float, numbers), strict=True))


OLD = counted(100, 300, 50, 2, 5, 80, 1, 0)
NEW = counted(130, 370, 90, 2.5, 9, 160, 4, 2)
STEP = counted(30, 70, 40, 0.5, 4, 80, 3, 2)


def test_a_step_is_the_difference_of_totals():
    meter = Meter()
    assert meter.since({"a": OLD}) == {}  # of before anybody looked
    assert meter.since({"a": NEW}) == {"a": STEP}
    assert meter.since({"a": NEW}) == {"a": counted(*[0] * 8)}


def test_a_restarted_engine_and_a_new_one_count_from_0():
    meter = Meter()
    meter.since({"a": NEW})
    small = counted(1, 2, 3, 4, 5, 6, 7, 8)
    # It may have more than the one that ended, or less.
    assert meter.since({"b": OLD, "c": small}) == {"b": OLD, "c": small}


def test_a_server_that_did_not_answer_once_is_counted_the_next_time():
    meter = Meter()
    assert meter.since(None) == {}
    meter.since({"a": OLD})
    assert meter.since(None) == {}
    assert meter.since({"a": NEW}) == {"a": STEP}


def test_a_step_has_tokens_shares_and_rates():
    assert engines.metrics([STEP], {"judge": STEP}) == {
        f"perf/{name}_{key}": value
        for name in ("rollout", "judge")
        for key, value in {
            "prefill_tokens": 30,
            "saved_tokens": 70,
            "saved_share": 0.7,
            "sampled_tokens": 40,
            "busy_share": 0.5,
            "restarts": 3,
            "non_finite": 2,
            "prefill_tokens_per_second": 60,
            "decode_tokens_per_second": 10,
        }.items()
    }


def test_engines_of_several_processes_are_added_up():
    other = counted(70, 30, 0, 1, 0, 80, 2, 1)
    found = engines.metrics([STEP, other], {})
    assert found == pytest.approx(
        {
            "perf/rollout_prefill_tokens": 100,
            "perf/rollout_saved_tokens": 100,
            "perf/rollout_saved_share": 0.5,
            "perf/rollout_sampled_tokens": 40,
            "perf/rollout_busy_share": 40 / 160,
            "perf/rollout_restarts": 5,
            "perf/rollout_non_finite": 3,
            # Side by side: 30 in 0.5 s and 70 in 1 s.
            "perf/rollout_prefill_tokens_per_second": 130,
            "perf/rollout_decode_tokens_per_second": 10,
        }
    )


def test_what_was_not_done_has_no_numbers():
    idle = counted(*[0] * 8)
    assert engines.metrics([idle], {"judge": idle}) == engines.metrics([{}], {}) == {}
    copied = counted(0, 64, 0, 0.1, 0, 0, 0, 0)
    assert engines.metrics([copied], {}) == {
        "perf/rollout_prefill_tokens": 0,
        "perf/rollout_saved_tokens": 64,
        "perf/rollout_saved_share": 1,
    }
