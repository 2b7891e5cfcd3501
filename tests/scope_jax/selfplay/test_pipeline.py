"""What a user gets wrong ends a run at its start: one line, nothing half-written."""

import socket
from dataclasses import replace

import pytest

import configs
from models.errors import UserError
from retrieval.search import Searcher
from scope_jax.config import EvaluationConfig
from scope_jax.run.folder import LEFTOVERS, RunFolder
from scope_jax.run.sizes import check_sizes
from scope_jax.selfplay import pipeline
from tests.scope_jax.inference.inference_world import write_model, write_passages


@pytest.fixture
def config(tmp_path):
    """The ``ci`` configuration over a tiny random model and four passages."""
    write_model(tmp_path / "model", 0)
    write_passages(tmp_path / "p.jsonl")
    base = configs.load("ci")
    return replace(
        base,
        model=replace(base.model, path=str(tmp_path / "model")),
        retrieval=replace(base.retrieval, passages=str(tmp_path / "p.jsonl")),
        documents=replace(base.documents, heldout=0),
        evaluation=EvaluationConfig(),
    )


def refused(config, folder):
    """The line that a start of ``config`` ends with; nothing of it binds the next."""
    with pytest.raises(UserError) as caught:
        pipeline.run(config, folder)
    assert {path.name for path in folder.iterdir()} <= set(LEFTOVERS)
    RunFolder(folder, replace(config, seed=7)).close()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_limits_that_do_not_fit_into_one_another(config, tmp_path):
    small = replace(config, engine=replace(config.engine, max_length=256))
    with pytest.raises(UserError, match=r"max_context_tokens=512: exceeds engine\."):
        pipeline.run(small, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def asking(config, schedule, **turns):
    """A configuration of a schedule of searches, and turns by section."""
    changed = {
        name: replace(getattr(config, name), **{"max_turns": most})
        for name, most in turns.items()
    }
    config = replace(config, **changed)
    return replace(config, challenger=replace(config.challenger, schedule=schedule))


@pytest.mark.parametrize(
    ("schedule", "turns", "said"),
    [
        ("1:1:0:1", {"challenger": 4}, r"to 4 searches, and challenger\.max_turns=4"),
        ("5", {"challenger": 6, "tasks": 5}, r"to 5 searches, and tasks\.max_turns=5"),
        ("4:x", {}, "challenger.schedule='4:x': expected"),
    ],
)
def test_searches_that_leave_no_turn_for_the_task(
    config, tmp_path, schedule, turns, said
):
    with pytest.raises(UserError, match=said):
        pipeline.run(asking(config, schedule, **turns), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_searches_are_asked_only_of_a_challenger_that_plays(config):
    check_sizes(asking(config, "1:1:1:1:0", challenger=5, tasks=5))
    config = asking(config, "9", tasks=10)
    idle = replace(config, challenger_train=replace(config.challenger_train, steps=0))
    check_sizes(idle)
    with pytest.raises(UserError, match=r"tasks\.max_turns=10"):
        check_sizes(asking(idle, "10", tasks=10))
    check_sizes(
        replace(asking(idle, "10"), tasks=replace(config.tasks, file="t.jsonl"))
    )


def test_a_turn_of_task_creation_that_never_fits(config, tmp_path):
    sampling = replace(config.tasks.sampling, max_new_tokens=513)
    config = replace(config, tasks=replace(config.tasks, sampling=sampling))
    with pytest.raises(
        UserError, match=r"tasks\.sampling\.max_new_tokens=513: exceeds"
    ):
        pipeline.run(config, tmp_path / "run")


def test_held_out_tasks_of_a_world_that_is_not_the_corpus(config, tmp_path):
    config = replace(config, evaluation=EvaluationConfig(count=5))
    with pytest.raises(
        UserError, match=r"evaluation\.count=5: .*--evaluation\.count 0"
    ):
        pipeline.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_documents_that_are_all_held_out(config, tmp_path):
    documents = replace(config.documents, heldout=4)
    message = refused(replace(config, documents=documents), tmp_path / "run")
    assert "documents.heldout=4: of 4 passages, 0 to 3 can be held out" in message


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_model_folder_that_lacks_a_file(config, tmp_path, name):
    (tmp_path / "model" / name).unlink()
    assert name.split(".")[0] in refused(config, tmp_path / "run")


def test_a_broken_line_of_passages(config, tmp_path):
    with (tmp_path / "p.jsonl").open("a") as file:
        file.write('{"contents": \n')
    assert "p.jsonl:5" in refused(config, tmp_path / "run")


def test_a_port_in_use(config, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        busy = replace(config, inference=replace(config.inference, port=port))
        message = refused(busy, tmp_path / "run")
    assert str(port) in message and "port" in message


def test_an_index_of_other_passages(config, tmp_path):
    folder = str(tmp_path / "index")
    retrieval = replace(config.retrieval, index_dir=folder)
    other = tmp_path / "other.jsonl"
    other.write_text('{"id": "0", "contents": "A\\nb"}\n')
    Searcher(replace(retrieval, passages=str(other)), progress=False)
    message = refused(replace(config, retrieval=retrieval), tmp_path / "run")
    assert "index" in message
