"""Tasks on disk are the tasks that were created."""

import pytest

from models.errors import UserError
from scope_jax.method.types import Document, Rubric, Task
from scope_jax.selfplay.task_file import read_tasks, write_tasks


def make(uid):
    return Task(
        uid=uid,
        type="writing",
        text="Write «this»\nplease",
        document=Document(id="d", title="T", text="(Title: T)\nx\n"),
        searches=2,
        rubrics=(Rubric("Names A.", "critical"), Rubric("Names B.", None)),
        gate_scores={"entity": 1, "source_relevance": None},
        difficulty=1 / 3,
        trace={"attempts": [{"scores": [1.0, None]}]},
    )


def test_round_trip(tmp_path):
    tasks = [make("a"), make("b")]
    write_tasks(tmp_path / "tasks.parquet", tasks)
    assert read_tasks(tmp_path / "tasks.parquet") == tasks


def test_no_tasks_is_a_file_too(tmp_path):
    write_tasks(tmp_path / "t.parquet", [])
    assert read_tasks(tmp_path / "t.parquet") == []


def test_a_file_of_something_else_is_one_line(tmp_path):
    (tmp_path / "t.parquet").write_text("hello")
    with pytest.raises(UserError, match="not a Parquet file"):
        read_tasks(tmp_path / "t.parquet")
    with pytest.raises(UserError, match="no such file"):
        read_tasks(tmp_path / "none.parquet")
