"""The report stands alone, escapes everything, and shows what a run stored."""

import json
import re
from html.parser import HTMLParser

import pytest

from models.errors import UserError
from scope_jax.config import TrackingConfig
from scope_jax.report import page as report
from scope_jax.report.charts import line_chart
from scope_jax.report.rollout import rollout_html
from scope_jax.run.tracking import Tracker
from scope_jax.system.files import write_text

HOSTILE = '</pre><script>alert("x")</script> & \u2028 <task>T</task>'


@pytest.fixture
def run(tmp_path):
    """A run of two iterations with one stored step of hostile rollouts."""
    (tmp_path / "config.json").write_text(json.dumps({"name": "ci <b>"}))
    with Tracker(tmp_path, TrackingConfig(tensorboard=False)) as tracker:
        for iteration in (1, 2):
            for step in (1, 2, 3):
                tracker.log(
                    {"reward/mean": step / 4, "loss/policy": 0.5 - step},
                    iteration=iteration,
                    stage="challenger",
                    step=step,
                )
    folder = tmp_path / "rollouts" / "iter_1" / "challenger"
    folder.mkdir(parents=True)
    rollouts = [
        {
            "uid": f"1/challenger/1/0/{i}",
            "messages": [
                {"role": "user", "content": f"write {HOSTILE}"},
                {"role": "assistant", "content": f"answer {i}"},
            ],
            "reward": i / 10,
            "trace": {"parts": {"format": 1.0}, "task": HOSTILE},
        }
        for i in range(6)
    ]
    lines = (json.dumps(r, ensure_ascii=False) for r in rollouts)
    (folder / "step_0001.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


class Tags(HTMLParser):
    """Collects tags, and checks that they nest."""

    VOID = ("meta", "line", "polyline")

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))


def test_the_page_is_well_formed_and_stands_alone(run):
    page = report.write(run).read_text()
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    names = [name for name, _ in tags.seen]
    assert "svg" in names
    assert not {"script", "link", "img", "iframe"} & set(names)
    assert not any({"src", "href"} & set(attributes) for _, attributes in tags.seen)


def test_speed_and_shares_of_the_engines_have_charts_of_their_own(run):
    with Tracker(run, TrackingConfig(tensorboard=False)) as tracker:
        for step in (1, 2):
            metrics = {"perf/tokens_per_second": 60.0, "perf/judge_saved_share": 0.5}
            metrics |= {"perf/judge_saved_tokens": 7e5}
            tracker.log(metrics, iteration=1, stage="solver", step=step)
    charts = re.findall(r"<figcaption>(.*?)</figure>", report.build(run))
    names = {
        chart.split("<")[0]: re.findall(r">(perf/\w+)<", chart) for chart in charts
    }
    assert names["Speed"] == ["perf/tokens_per_second"]
    assert names["Prompt tokens saved, slots busy"] == ["perf/judge_saved_share"]


def test_the_truth_has_charts_of_few_lines_each(run):
    names = ("score", "reward_correlation", "grades_right", "grades_right_met")
    kinds = ("written", "kept")
    names += tuple(f"{kind}/{name}" for kind in kinds for name in ("hops", "vague"))
    with Tracker(run, TrackingConfig(tensorboard=False)) as tracker:
        for step in (1, 2):
            metrics = {f"truth/{name}": 0.5 for name in names}
            tracker.log(metrics, iteration=1, stage="solver", step=step)
    page = report.build(run)
    charts = re.findall(r"<figcaption>(.*?)</figure>", page)
    found = {c.split("<")[0]: re.findall(r">truth/([\w/]+)<", c) for c in charts}
    assert {caption: lines for caption, lines in found.items() if lines} == {
        "True scores": ["reward_correlation", "score"],
        "Grades right, by what the answer says of the rubric": [
            "grades_right",
            "grades_right_met",
        ],
        "Blanks that cannot be filled": ["kept/vague", "written/vague"],
        "Size of tasks and answers": ["kept/hops", "written/hops"],
    }
    assert "<td>truth/reward_correlation</td>" in page


def test_text_of_models_and_documents_is_escaped(run):
    page = report.build(run)
    assert "<script>" not in page
    assert "&lt;/pre&gt;&lt;script&gt;" in page
    assert "ci &lt;b&gt;" in page


def test_best_and_worst_rollouts_are_shown_with_their_rewards(run):
    page = report.build(run)
    rewards = re.findall(r"<summary>reward ([\d.]+) - ", page)
    assert rewards == ["0.5", "0.4", "0.1", "0"]
    assert page.index("answer 5") < page.index("answer 0")


def test_a_rollout_shows_its_reasons_every_grade_and_the_judge_s_words():
    told = {
        "uid": "1/challenger/1/0/0",
        "reward": 1.0,
        "messages": [],
        "trace": {
            "why": ["format 1 <b>", "reward 1 = 0.5 x format 1 + .."],
            "truth": {"why": ["blank 1: vague <i>"]},
            "branch": "graded",
            "task": "Name the rivers.",
            "rubrics": ["Names A.", "Names B."],
            "gates_raw": {"entity": "clear <score>1</score>"},
            "rubrics_raw": "<rubrics>..",
            "attempts": [
                {
                    "answer": "A it is",
                    "judge": [
                        {"score": 1.0, "raw": "yes"},
                        {"score": None, "raw": "hm", "asked_again_after": "hm?"},
                    ],
                },
                {"answer": "", "judge": []},
            ],
        },
    }
    page = rollout_html(told)
    assert "<summary>reward 1 - 1/challenger/1/0/0 - graded</summary>" in page
    assert "<li>format 1 &lt;b&gt;</li>" in page
    assert "<ul><li>blank 1: vague &lt;i&gt;</li></ul>" in page
    rows = re.findall(r"<tr>(.*?)</tr>", page)
    assert [re.findall(r">([^<>]+)<", row) for row in rows] == [
        ["rubric", "rollout 1", "rollout 2"],
        ["Names A.", "1", "-"],
        ["Names B.", "unreadable", "-"],
    ]
    roles = re.findall(r'<div class="role">([^<]+)</div>', page)
    assert roles == [
        "why",
        "in truth (trains nothing)",
        "the task",
        "grades",
        "rollout 1 answered",
        "rollout 2 answered",
        "gate entity",
        "rubrics",
        "rollout 1, rubric 1",
        "rollout 1, rubric 2, unreadable",
        "rollout 1, rubric 2",
    ]
    assert "(no valid answer)" in page
    tags = Tags()
    tags.feed(page)
    assert tags.open == []


def test_each_sampled_turn_says_what_was_read_in_it():
    said = [{"role": r, "content": r} for r in ("user", "assistant") * 3]
    notes = [{"turn": 1, "what": "search"}, {"turn": 2, "what": "task"}]
    page = rollout_html({"messages": said, "trace": {"conversation": notes}})
    roles = re.findall(r'<div class="role">([^<]+)</div>', page)
    assert roles[1:] == [
        *("user", "assistant", "user"),
        *("assistant, turn 1: search", "user", "assistant, turn 2: task"),
    ]


def test_a_record_of_task_creation_is_shown_the_same_way():
    page = rollout_html(
        {
            "uid": "1/tasks/1/0/0",
            "outcome": "too_hard",
            "difficulty": 0.1,
            "why": ["too hard: dropped"],
            "task": "T",
            "rubrics": ["R"],
            "attempts": [{"answer": "a", "judge": [{"score": 0.0, "raw": "no"}]}],
            "messages": [{"role": "assistant", "content": "said"}],
        }
    )
    assert "<summary>too_hard 0.1 - 1/tasks/1/0/0</summary>" in page
    for text in ("<li>too hard: dropped</li>", "<td>R</td>", "said", "a</pre>"):
        assert text in page


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json: name the folder of a run"):
        report.build(tmp_path)


@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"a": 1}', "\0" * 99, "\xff"])
@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "metrics.jsonl",
        "rollouts/iter_1/challenger/step_0001.jsonl",
        "eval/small_world/scores.json",
        "eval/small_world/before_after.json",
    ],
)
def test_what_is_damaged_is_named_in_one_line(run, name, damage):
    write_text(run / "eval/small_world/scores.json", "{}")
    file = run / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(damage + "\n" * (file.suffix == ".jsonl"), encoding="latin-1")
    try:
        report.build(run)
    except UserError as error:
        assert str(file) in str(error) and "\n" not in str(error)
    else:  # an empty file of lines has none, and an object may be of any form
        assert damage in ("", '{"a": 1}')


def test_a_run_without_metrics_has_a_report(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert "Nothing was logged yet" in report.build(tmp_path)


def test_a_chart_places_points_inside_its_frame_and_leaves_out_nan():
    points = [(1, 0.0), (2, float("nan")), (3, 2.0)]
    chart = line_chart("Reward", {"reward/mean": points}, marks=[2.5])
    found = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', chart)
    assert found == [("52.0", "196.0"), ("450.0", "10.0")]
    assert line_chart("Nothing", {"x": [(1, float("nan"))]}) == ""
    assert "nan" not in line_chart("Flat", {"x": [(1, 3.0)]})
