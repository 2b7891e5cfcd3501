"""The judge's score beside the truth in a report: the alarm, its delay."""

import json

from scope_jax.config import TrackingConfig
from scope_jax.report import hacking, page
from scope_jax.run.tracking import Tracker
from tests.scope_jax.report.run_folders import embedded

TRUTH = "reward/rubric_score_unbiased"
PROXY = [0.4, 0.4, 0.4, 0.5, 0.6, 0.7, 0.8]
ALARM = [0, 0, 0, 0, 0, 1, 1]


def records(alarms=ALARM, proxy=PROXY):
    return [
        {
            "step": step,
            "reward/rubric_score": score,
            TRUTH: 0.3,
            "alarm/reward_hacking": alarm,
        }
        for step, (score, alarm) in enumerate(zip(proxy, alarms, strict=True), 11)
    ]


def test_the_delay_is_counted_from_where_the_gap_began_to_grow():
    assert hacking.told(records()) == (
        "Alarm at step 16: the judge may be exploited. Looking back, the gap "
        "between the two grew after step 13 (a level and then a straight line, fitted "
        "to all steps): the first alarm came 3 steps later."
    )


def test_an_alarm_that_no_growing_gap_explains_is_only_named():
    flat = records([0, 1, 0, 0, 1, 1, 0], [0.4] * 7)
    assert hacking.told(flat) == ("Alarm at step 12, 15: the judge may be exploited.")
    early = records([0, 1, 0, 0, 0, 0, 0])  # before the gap grew
    assert hacking.told(early) == "Alarm at step 12: the judge may be exploited."
    assert hacking.told(records([0] * 7)) == "No alarm."


def test_the_page_of_a_run_says_it_once_and_has_the_curves(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"name": "run"}))
    with Tracker(tmp_path, TrackingConfig(tensorboard=False)) as tracker:
        for record in records():
            metrics = {name: v for name, v in record.items() if "/" in name}
            metrics["bias/chance"] = 0.25
            tracker.log(metrics, iteration=1, stage="solver", step=record["step"])
    (run,) = embedded(page.build(tmp_path))[0]["runs"]
    assert run["alarms"] == {"solver": hacking.told(records())}
    metrics = run["curves"]["solver"]["metrics"]
    assert metrics["alarm/reward_hacking"] == ALARM
    assert metrics[TRUTH] == [0.3] * 7 and metrics["bias/chance"] == [0.25] * 7


def test_a_stage_without_a_truth_has_no_alarm():
    assert not hacking.known([{"step": 1, "reward/rubric_score": 0.5}])
