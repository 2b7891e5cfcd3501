"""Tasks from a file take the place of task creation; what is wrong with it is said."""

import json
from dataclasses import replace

import pytest

from models.errors import UserError
from scope_jax.method.types import Rubric
from scope_jax.selfplay import tasks as stage
from scope_jax.selfplay.given_tasks import read_given
from scope_jax.selfplay.task_file import read_tasks, write_tasks
from tests.scope_jax.selfplay.task_players import TaskPlayers, small


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(number):
    return {"task": f"Say {number}.", "type": "writing", "rubrics": [f"Says {number}."]}


def test_each_iteration_takes_the_next_ones_and_starts_again(tmp_path):
    file = lines(tmp_path / "given.jsonl", [row(i) for i in range(5)])
    config = small(target=3)
    config = replace(config, tasks=replace(config.tasks, file=str(file)))
    players = TaskPlayers(tmp_path / "run", config)
    taken = []
    for iteration in (1, 2):
        stage.create_tasks(players.parts(), iteration)
        tasks = read_tasks(players.folder.tasks(iteration))
        taken.append([task.text for task in tasks])
        assert players.folder.done(f"iter_{iteration}/tasks")
    assert taken == [
        ["Say 0.", "Say 1.", "Say 2."],
        ["Say 3.", "Say 4.", "Say 0."],
    ]
    assert len({task.uid for task in tasks}) == 3
    assert tasks[0].rubrics == (Rubric("Says 3."),)
    assert players.asked == [] and players.written == []
    players.folder.close()


def test_fewer_than_wanted_are_all_taken_once(tmp_path):
    file = lines(tmp_path / "given.jsonl", [row(0), row(1)])
    config = small(target=3)
    config = replace(config, tasks=replace(config.tasks, file=str(file)))
    players = TaskPlayers(tmp_path / "run", config)
    stage.create_tasks(players.parts(), 1)
    assert len(read_tasks(players.folder.tasks(1))) == 2
    players.folder.close()


def test_a_runs_own_file_is_read_too(tmp_path):
    given = read_given(lines(tmp_path / "a.jsonl", [row(0) | {"target": "zero"}]))
    write_tasks(tmp_path / "a.parquet", [replace(given[0], difficulty=0.5)])
    again = read_given(tmp_path / "a.parquet")
    assert again == [replace(given[0], difficulty=0.5)] and again[0].target == "zero"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no task"),
        ("{", "a.jsonl:1: not JSON"),
        (json.dumps(row(0)) + "\n\n{", "a.jsonl:3: not JSON"),
        ('{"task": "\\ud800"}', "a.jsonl:1: not JSON: half a surrogate pair"),
        ("[" * 100_000, "a.jsonl:1: not JSON"),
        (json.dumps(row(0)) + '\n{"task": "x"}', "a.jsonl:2: not"),
        (json.dumps(row(0) | {"rubrics": []}), "a.jsonl:1: not"),
        (json.dumps(row(0) | {"rubrics": "all"}), "a.jsonl:1: not"),
        (json.dumps(row(0) | {"target": 3}), "a.jsonl:1: not"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path, text, said):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(UserError) as caught:
        read_given(tmp_path / "a.jsonl")
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"tasks\.file=.*no such file"):
        read_given(tmp_path / "none.jsonl")


def test_rows_of_a_benchmark_are_tasks_of_their_positive_rubrics(tmp_path, caplog):
    rows = [
        {
            "source": "mine",
            "prompt": "Say a.",
            "items": ["A", {"text": "B", "weight": 2}],
        },
        {"source": "mine", "prompt": "Say b.", "items": [{"text": "C", "weight": -1}]},
        {"source": "qa", "prompt": "Who?", "judge": "equivalence", "golds": ["X", "Y"]},
        {"source": "talk", "judge": "checklist", "items": ["D"]}
        | {"messages": [{"role": "user", "content": "hi"}]},
    ]
    given = read_given(lines(tmp_path / "rows.jsonl", rows))
    assert [(task.text, task.type) for task in given] == [
        ("Say a.", "mine"),
        ("Who?", "qa"),
    ]
    assert given[0].rubrics == (Rubric("A"), Rubric("B")) and given[0].target is None
    [rubric] = given[1].rubrics
    assert '"X"; "Y"' in rubric.text
    assert "2 of 4 rows have no prompt for the Solver or no rubric" in caplog.text
    with pytest.raises(UserError, match="no row has a prompt for the Solver"):
        read_given(lines(tmp_path / "none.jsonl", rows[1:2]))


def test_a_public_file_of_a_benchmark_is_named(tmp_path):
    goals = [{"Goal": f"g{n}", "Rubric": [f"r{n}", "s"]} for n in range(3)]
    one = lines(tmp_path / "ml.jsonl", goals[:2])
    two = lines(tmp_path / "arxiv.jsonl", goals[2:])
    given = read_given(f"research_plan_gen={one},{two}")
    assert [task.text.rpartition("\n")[2] for task in given] == ["g0", "g1", "g2"]
    assert given[2].rubrics == (Rubric("r2"), Rubric("s"))
    with pytest.raises(UserError, match="--benchmark quiz: unknown"):
        read_given(f"quiz={one}")
    with pytest.raises(UserError, match="no such file"):
        read_given("nothing=")
