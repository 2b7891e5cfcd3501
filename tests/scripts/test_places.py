"""Names that --out and its like cannot have are one line, before any work is done."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import configs
from models.errors import UserError
from retrieval.config import RetrievalConfig
from scope_jax.evaluation import compare
from scope_jax.system import settings
from scope_jax.system.files import write_text
from tests.scope_jax.report.run_folders import make

IS_FILE = "a.txt is a file: name another place"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with a file, a folder with files, and two runs."""
    (tmp_path / "a.txt").write_text("mine")
    (tmp_path / "used.py").mkdir()
    (tmp_path / "used.py" / "b.txt").write_text("mine")
    make(tmp_path / "shown")
    settings.save(configs.load("tiny"), tmp_path / "run" / "config.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


EXPORT = ["run", "--iteration", "1", "--role", "solver"]


@pytest.mark.parametrize(
    ("script", "arguments", "said"),
    [
        ("report", ["shown", "--out", "."], "--out .: is a folder: name a file"),
        ("report", ["shown", "--out", "used.py"], "--out used.py: is a folder"),
        ("report", ["shown", "--out", "a.txt/b"], f"--out a.txt/b: {IS_FILE}"),
        ("export_hf", [*EXPORT, "--out", "a.txt/b"], f"--out a.txt/b: {IS_FILE}"),
        ("ablate", ["--out", "a.txt"], "--out a.txt: is a file"),
        ("ablate", ["--collect", "--summaries", "a.txt"], "--summaries a.txt: is a"),
        ("init", ["--out", "used.py", "--overwrite"], "--out used.py: is a folder"),
        ("init", ["--out", "a.txt/my.py"], f"--out a.txt/my.py: {IS_FILE}"),
        ("bench", ["answers", "--json", "."], "--json .: is a folder"),
        ("bench", ["sampler", "--chart", "a.txt/b"], f"--chart a.txt/b: {IS_FILE}"),
        ("serve", ["--config", "tiny", "--log", "."], "--log .: is a folder"),
    ],
)
def test_a_name_that_cannot_be_is_one_line(script, arguments, said):
    module = importlib.import_module(f"scripts.{script}")
    with pytest.raises(UserError, match=f"^{said}"):
        module.main(arguments)


@pytest.mark.parametrize(
    ("out", "said"),
    [
        (".", "is no name: name a folder"),
        ("..", "is no name: name a folder"),
        ("a.txt", "is a file"),
        ("used.py", "holds no model, and would be replaced"),
    ],
)
def test_a_model_takes_no_other_files_place(out, said):
    checked = importlib.import_module("scripts.warmstart").checked
    with pytest.raises(UserError, match=f"^--out {out}: {said}"):
        checked(Path(out))
    for right in ("new/folder", "run"):  # the second has a config.json, as models do
        assert checked(Path(right)) == Path(right)


def test_answers_are_kept_in_a_folder():
    with (
        pytest.raises(UserError, match=r"--out a\.txt: is a file: name another"),
        compare._locked(Path("a.txt")),
    ):
        pass


def test_an_index_needs_a_name(here):
    (here / "p.jsonl").write_text(json.dumps({"contents": "a\nb"}) + "\n")
    (empty := here / "empty").mkdir()
    program = f"""
from retrieval.config import RetrievalConfig
from retrieval.search import Searcher
from scope_jax.run import cli
told = RetrievalConfig(passages={str(here / "p.jsonl")!r}, index_dir=".")
cli.run_main(lambda _: Searcher(told, progress=False) and 0)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=empty, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: retrieval.index_dir=.: is no name")
    assert RetrievalConfig(index_dir="here").index_root() == Path("here")


def test_a_file_written_where_a_folder_is_names_that_folder():
    for name in (".", "used.py"):
        with pytest.raises(IsADirectoryError) as refused:
            write_text(Path(name), "text")
        assert refused.value.filename == name
    assert {p.name for p in Path(".").iterdir()} == {"a.txt", "used.py", "shown", "run"}


def test_a_folder_made_where_a_file_is_ends_with_one_line():
    program = (
        "from pathlib import Path; from scope_jax.run import cli\n"
        "cli.run_main(lambda _: Path('a.txt').mkdir(exist_ok=True))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True)
    said = "error: a.txt: File exists: give another name\n"
    assert (done.returncode, done.stderr) == (2, said)
