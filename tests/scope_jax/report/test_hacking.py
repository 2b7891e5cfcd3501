"""The judge's score beside the truth in a report: the chart, the alarm, its delay."""

import json
import re

from scope_jax.config import TrackingConfig
from scope_jax.report import hacking, page
from scope_jax.report.rollout import rollout_html
from scope_jax.run.tracking import Tracker

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
        "Alarm (red) at step 16: the judge may be exploited. Looking back, the gap "
        "between the two grew after step 13 (a level and then a straight line, fitted "
        "to all steps): the first alarm came 3 steps later."
    )


def test_an_alarm_that_no_growing_gap_explains_is_only_named():
    flat = records([0, 1, 0, 0, 1, 1, 0], [0.4] * 7)
    assert hacking.told(flat) == (
        "Alarm (red) at step 12, 15: the judge may be exploited."
    )
    early = records([0, 1, 0, 0, 0, 0, 0])  # before the gap grew
    assert hacking.told(early) == "Alarm (red) at step 12: the judge may be exploited."
    assert hacking.told(records([0] * 7)) == "No alarm."


def test_the_chart_has_two_curves_and_a_red_line_at_the_alarm():
    chart = hacking.chart(records(), marks=[3.5])
    assert "The judge&#x27;s score and the unbiased score" in chart
    assert re.findall(r"<title>([\w/]+): 0\.3<", chart) == [TRUTH] * 7
    reds = re.findall(r'<line x1="([\d.]+)"[^>]*stroke="#b3261e"', chart)
    circles = re.findall(r'<circle cx="([\d.]+)"', chart)
    assert reds == [circles[5]]  # the sixth record
    assert chart.count("stroke-dasharray") == 1
    assert chart.endswith("steps later.</div></figure>")


def test_a_stage_without_a_truth_has_no_such_chart():
    assert hacking.chart([{"step": 1, "reward/rubric_score": 0.5}], marks=[]) == ""


def test_the_page_of_a_run_shows_it_and_the_table_has_its_numbers(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"name": "run"}))
    with Tracker(tmp_path, TrackingConfig(tensorboard=False)) as tracker:
        for record in records():
            metrics = {name: v for name, v in record.items() if "/" in name}
            metrics["bias/chance"] = 0.25
            tracker.log(metrics, iteration=1, stage="solver", step=record["step"])
    text = page.build(tmp_path)
    assert text.count("Looking back, the gap between the two grew after step 13") == 1
    for name in ("alarm/reward_hacking", "bias/chance", TRUTH):
        assert f"<tr><td>{name}</td>" in text


def test_a_raised_grade_shows_what_it_was():
    grades = [
        {"score": 1.0, "raw": "no", "unbiased": 0.0, "bias": 0.5},
        {"score": 0.0, "raw": "no", "unbiased": 0.0, "bias": 0.5},
    ]
    trace = {"rubrics": ["A.", "B."], "answer": "a", "judge": grades}
    shown = rollout_html({"uid": "u", "reward": 1.0, "trace": trace})
    assert '<td>A.</td><td class="unread">1, raised from 0</td>' in shown
    assert '<td>B.</td><td class="no">0</td>' in shown
