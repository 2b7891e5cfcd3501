"""The page stands alone, holds all that a run stored, and lets no text act."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from models.errors import UserError
from scope_jax.report import bundle, page, rows, stored
from scope_jax.system.files import write_json_lines, write_text
from tests.scope_jax.report.run_folders import (
    HOSTILE,
    embedded,
    make,
    solver_record,
    task_record,
)


@pytest.fixture
def run(tmp_path):
    return make(tmp_path / "run")


class Tags(HTMLParser):
    """Collects elements and the text of scripts, as a browser sees them."""

    def __init__(self):
        super().__init__()
        self.seen, self.scripts = [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.cdata_elem == "script":
            self.scripts[-1] += data


def test_the_page_stands_alone_and_only_its_own_script_may_run(run):
    tags = Tags()
    tags.feed(page.build(run))
    names = [name for name, _ in tags.seen]
    assert not {"link", "img", "iframe", "base", "form"} & set(names)
    assert not any({"src", "href"} & set(attributes) for _, attributes in tags.seen)
    kinds = [a.get("type") for name, a in tags.seen if name == "script"]
    assert kinds.count(None) == 1 and kinds[-1] is None  # the rest is data
    digest = hashlib.sha256(tags.scripts[-1].encode()).digest()
    policy = next(a["content"] for _, a in tags.seen if a.get("http-equiv"))
    assert f"script-src 'sha256-{base64.b64encode(digest).decode()}';" in policy
    assert "default-src 'none'" in policy and "connect-src" not in policy
    assert "uPlot" in tags.scripts[-1] and "Leon Sorokin" in page.build(run)


def test_text_of_models_gets_in_as_data_and_out_as_it_was(tmp_path):
    make(tmp_path / "run", said=HOSTILE, config={"note": HOSTILE}.items())
    text = page.build(tmp_path / "run")
    assert text.isascii() or HOSTILE not in text
    tags = Tags()
    tags.feed(text)
    assert "img" not in [name for name, _ in tags.seen]
    about, records = embedded(text)
    assert (
        records[about["rollouts"]["parts"][1][0]]["messages"][3]["content"] == HOSTILE
    )
    assert json.loads(about["runs"][0]["config"]["note"]) == HOSTILE


def test_every_metric_has_a_curve_and_every_rollout_a_row(run):
    about, records = embedded(page.build(run))
    (one,) = about["runs"]
    metrics = one["curves"]["solver"]["metrics"]
    assert len([name for name in metrics if name.startswith("perf/metric")]) == 12
    assert metrics["reward/mean"] == [0.25, 0.5, 0.75]
    assert one["curves"]["solver"]["iteration"] == [1, 1, 1]
    found = about["rollouts"]
    assert len(found["rows"]) == found["held"] == len(records) == 3 + 3 * 8 + 2 * 4 * 2
    stages = [row[found["fields"].index("stage")] for row in found["rows"]]
    assert stages == ["tasks"] * 3 + ["solver"] * 24 + ["evaluation"] * 16
    assert records[3] == solver_record(1, 0, 0)


def test_answers_to_prompts_of_a_file_are_shown_whatever_its_name(run):
    said = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}]
    record = {"prompt": "p", "rubrics": ["r"], "answer": "a", "messages": said}
    record |= {"score": 1.0, "grades": [1.0], "judge": ["yes"]}
    write_json_lines(run / "eval" / "my-prompts v1.2" / "base.jsonl", [record])
    about, records = embedded(page.build(run))
    assert about["rollouts"]["rows"][27][1] == "eval/my-prompts v1.2/base/0"
    assert records[27]["messages"] == said
    assert "my-prompts v1.2" in [one.kind for one in stored.sources(run)]


def test_a_row_says_what_lists_need():
    found = rows.row(solver_record(2, 1, 3), 1, "solver", 2)
    assert dict(zip(rows.FIELDS, found, strict=True)) == {
        "uid": "1/solver/2/1/3",
        **{"iteration": 1, "stage": "solver", "step": 2, "group": 1, "sample": 3},
        **{"reward": 1.25, "advantage": 0.375, "judge": 0.75, "truth": 0, "gap": 0.75},
        **{"outcome": "graded", "errors": [], "searches": 1, "tokens": 14},
        **{"type": "planning", "task": "task 1", "source": "1/tasks/1/1/0"},
        "flaws": ["wrong grade"],
    }


def test_without_a_truth_attempts_that_differ_are_the_disagreement():
    found = rows.row(task_record(0, "kept", 0.5), 1, "tasks", 1)
    shown = dict(zip(rows.FIELDS, found, strict=True))
    assert (shown["truth"], shown["judge"], shown["gap"]) == (None, 0.5, 1.0)
    assert (shown["reward"], shown["outcome"]) == (0.5, "kept")


def test_records_of_older_versions_and_of_none_are_read_as_far_as_they_go():
    old = rows.row(solver_record(1, 0, 0, trained=False), 1, "solver", 1)
    assert old[rows.FIELDS.index("advantage")] is None
    assert rows.row({"uid": 3}, 1, "solver", 1) is None
    assert rows.row({"uid": "u", "trace": []}, 1, "solver", 1) is None
    odd = {"uid": "u", "trace": {"parts": 3, "attempts": [1], "truth": "no"}}
    assert rows.row(odd, 1, "solver", 1)[0] == "u"


def test_answers_that_the_judge_has_graded_are_read_too():
    record = {"prompt": "Say.", "rubrics": ["It."], "answer": "a", "messages": []}
    record |= {"score": 0.5, "grades": [None, 1.0], "judge": ["hm", "yes"]}
    ((row, shown),) = rows.scored(record, "asked", "iter_2", 7)
    found = dict(zip(rows.FIELDS, row, strict=True))
    assert (found["uid"], found["iteration"]) == ("eval/asked/iter_2/7", 2)
    assert (found["reward"], found["judge"], found["truth"]) == (0.5, 0.5, None)
    assert shown["judge"] == [
        {"score": None, "raw": "hm"},
        {"score": 1.0, "raw": "yes"},
    ]
    assert found["task"] == shown["task"] == "Say."


NAMES = ("stage", "iteration", "step", "group")


def test_of_too_many_rollouts_whole_groups_are_left_out_evenly(run, monkeypatch):
    monkeypatch.setattr(bundle, "MOST", 12)
    about, records = embedded(page.build(run))
    found = about["rollouts"]
    assert len(found["rows"]) == 43 and found["held"] == len(records) <= 16
    at = {name: found["fields"].index(name) for name in NAMES}
    groups = [tuple(row[i] for i in at.values()) for row in found["rows"]]
    held = {groups[row] for row in records}
    assert set(records) == {i for i, group in enumerate(groups) if group in held}
    assert {group[0] for group in held} == {"tasks", "solver", "evaluation"}


def test_conversations_that_are_too_long_are_fewer(run, monkeypatch):
    found, chunks, _ = bundle.bundle([run])
    rows_, size = len(json.dumps(found["rows"])), sum(map(len, chunks))
    monkeypatch.setattr(bundle, "MOST_CHARACTERS", rows_ + size // 2)
    found, chunks, _ = bundle.bundle([run])
    assert 0 < sum(map(len, chunks)) <= size // 2
    assert found["held"] < len(found["rows"]) == 43
    monkeypatch.setattr(bundle, "MOST_CHARACTERS", rows_ // 2)
    found, chunks, _ = bundle.bundle([run])
    assert (found["held"], chunks, len(found["rows"])) == (0, [], 43)


def test_runs_of_one_arm_differ_in_their_seed_only(tmp_path):
    for number, config in enumerate(({}, {}, {"tool_format": "tool_call"})):
        make(tmp_path / f"full_{number}", seed=number, config=config.items())
    about = page.describe([tmp_path / f"full_{i}" for i in range(3)])
    assert about["arms"] == [
        {"name": "full (seeds 0, 1)", "runs": [0, 1]},
        {"name": "full_2", "runs": [2]},
    ]
    differing = {one["name"]: one["values"] for one in about["differences"]}
    assert differing == {
        "seed": ["0", "1", "2"],
        "tool_format": [None, None, '"tool_call"'],
    }


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json: name the folder of a run"):
        page.build(tmp_path)


STORED = {
    "config.json": "name",
    "metrics.jsonl": "curves",
    "rollouts/iter_1/solver/step_0001.jsonl": "rollouts",
    "rollouts/iter_1/tasks/step_0001.jsonl": "rollouts",
    "eval/small_world/scores.json": "evaluations",
    "eval/small_world/iter_1.jsonl": "gains",
    "eval/small_world/before_after.json": "compared",
    "manifest.json": "stages",
}
DAMAGES = ["{", "[1]", '{"a": 1}', "\0" * 99, "\xff", "null", "[" * 99_999]


@pytest.mark.parametrize("damage", DAMAGES, ids=range(len(DAMAGES)))
@pytest.mark.parametrize("name", STORED)
def test_what_is_damaged_is_named_and_the_rest_is_shown(run, name, damage):
    write_text(run / "eval/small_world/before_after.json", "{}")
    whole, _ = embedded(page.build(run))
    lines = name.endswith(".jsonl")
    (run / name).write_text(damage + "\n" * lines, encoding="latin-1")
    about, _ = embedded(page.build(run))
    if damage != '{"a": 1}' or lines:  # an object may be of any form
        assert any(name in problem for problem in about["problems"]), about["problems"]
    for problem in about["problems"]:
        assert "\n" not in problem
    kept = {"name", "curves", "evaluations", "stages"} - {STORED[name]}
    if STORED[name] in ("gains", "compared"):
        kept -= {"evaluations"}
    for key in kept:
        assert about["runs"][0][key] == whole["runs"][0][key]
    if STORED[name] not in ("rollouts", "gains"):
        assert about["rollouts"] == whole["rollouts"]


def test_of_a_damaged_file_the_whole_lines_are_shown(run):
    file = run / "rollouts/iter_1/tasks/step_0001.jsonl"  # its hash is recorded
    first, _, third = file.read_text().splitlines()
    file.write_text(f"{first}\n{{cut off\n{third}")
    about, records = embedded(page.build(run))
    assert len(about["rollouts"]["rows"]) == 42
    assert [records[i]["uid"] for i in (0, 1)] == ["1/tasks/1/0/0", "1/tasks/1/2/0"]
    assert about["problems"] == [
        "rollouts/iter_1/tasks/step_0001.jsonl: not what was written (its SHA-256 is "
        "another than in SHA256SUMS)",
        "rollouts/iter_1/tasks/step_0001.jsonl: 1 of 3 lines are no rollouts",
    ]


def test_values_that_browsers_do_not_read_are_none(run):
    huge, odd = "9" * 400, '{"a": NaN, "b": [-Infinity], "c": null}'
    (run / "manifest.json").write_text(f'{{"stages": {odd}, "began": {huge}}}')
    file = run / "rollouts/iter_1/solver/step_0001.jsonl"
    record = solver_record(1, 0, 0)
    text = json.dumps(record | {"tokens": 1, "more": 2})
    text = text.replace('"tokens": 1', f'"tokens": {huge}')
    file.write_text(text.replace('"more": 2', f'"more": {odd}') + "\n")
    (run / "eval/small_world/scores.json").write_text('{"base": {"x": NaN, "y": 1}}')
    about, records = embedded(page.build(run))
    assert about["runs"][0]["began"] is None and about["runs"][0]["stages"] == {}
    shown = next(r for r in records.values() if r["uid"] == record["uid"])
    assert shown["more"] == {"a": None, "b": [None], "c": None}
    rows_ = about["rollouts"]["rows"]
    row = next(r for r in rows_ if r[1] == record["uid"])
    assert row[about["rollouts"]["fields"].index("tokens")] is None
    (evaluation,) = about["runs"][0]["evaluations"]
    assert evaluation["scores"] == {"base": {"x": None, "y": 1.0}}


def test_what_cannot_be_read_at_all_is_named(run):
    file = run / "rollouts/iter_1/solver/step_0001.jsonl"
    file.unlink()
    file.mkdir()
    about, _ = embedded(page.build(run))
    assert len(about["rollouts"]["rows"]) == 35
    assert file.name in about["problems"][0]


def test_the_batch_at_which_training_stopped_is_no_step(run):
    (run / "rollouts/iter_1/solver/step_0009.batch.jsonl").write_text('{"uid": "x"}\n')
    about, _ = embedded(page.build(run))
    assert len(about["rollouts"]["rows"]) == 43 and not about["problems"]


def test_a_run_without_anything_yet_has_a_page(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    about, records = embedded(page.build(tmp_path))
    assert (
        about["rollouts"]["rows"] == [] and records == {} == about["runs"][0]["stages"]
    )


def test_no_static_file_ends_the_element_that_it_is_put_in():
    for name in (*page.SCRIPTS, *page.STYLES):
        text = page._text(name)
        assert not re.search(r"</script|</style|<!--", text, re.IGNORECASE), name
