"""init.py: a configuration file that train.py takes, and one line for each mistake."""

import io
import shlex

import pytest

import configs
from models.errors import UserError
from models.hf.published import PUBLISHED
from retrieval import keywords
from retrieval.search import open_passages
from scope_jax.run import cli
from scope_jax.run.plan import plan
from scope_jax.small_world.assets import MODEL
from scripts import build_index, init


@pytest.fixture
def text(tmp_path):
    (tmp_path / "my notes").mkdir()
    for name in ("Bern", "Aare"):
        (tmp_path / "my notes" / f"{name}.md").write_text(f"# {name}\n\nA text of it.")
    return str(tmp_path / "my notes")


def written(folder, *options):
    out = folder / "mine.py"
    assert init.main([*options, "--out", str(out), "--overwrite"]) == 0
    return out, cli.parse(["--config", str(out)], configs)[0]


def test_the_file_for_a_cpu_is_planned_and_indexed_as_it_says(tmp_path, text, capsys):
    options = ["--model", str(MODEL), "--text", text, "--card", "cpu"]
    out, config = written(tmp_path, *options)
    assert (config.name, config.model.path) == ("mine", str(MODEL))
    assert (config.retrieval.passages, config.retrieval.ranking) == (text, "bm25")
    plan(config)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{out}: written. Look at it, then:"
    _, script, *arguments = shlex.split(said[1])
    assert script == "scripts/build_index.py" and build_index.main(arguments) == 0
    assert {p.title for p in open_passages(config.retrieval)} == {"Bern", "Aare"}
    assert shlex.split(said[3])[1:] == ["scripts/train.py", "--config", str(out)]
    assert f"--config {out}: {MODEL} on {text}, on a CPU." in help_of(out, capsys)


def help_of(out, capsys):
    with pytest.raises(SystemExit):
        cli.parse(["--config", str(out), "--help"], configs)
    return capsys.readouterr().out


def test_columns_of_other_names_are_asked_for_and_written(tmp_path, capsys):
    table = tmp_path / "rows.csv"
    table.write_text("head line;body\nBern;A town.\nAare;A river.\n")
    options = ["--model", str(MODEL), "--text", str(table), "--card", "cpu"]
    with pytest.raises(UserError, match=r"columns are head line.* \(give --text_col"):
        written(tmp_path, *options)
    options += ["--text_column", "body"]
    with pytest.raises(UserError, match=r"'head' .*correct --title_column"):
        written(tmp_path, *options, "--title-column", "head")
    options += ["--title-column", "head line"]
    _, config = written(tmp_path, *options)
    told = config.retrieval
    assert (told.text_column, told.title_column) == ("body", "head line")
    said = capsys.readouterr().out.splitlines()
    _, _, *arguments = shlex.split(said[1])
    assert build_index.main(arguments) == 0
    found = [(p.title, p.text) for p in open_passages(told)]
    assert found == [("Bern", "A town."), ("Aare", "A river.")]
    # What was indexed is what the file searches.
    assert f"{keywords.folder_of(told, open_passages(told))}" in capsys.readouterr().out


@pytest.mark.parametrize("model", [str(MODEL), *PUBLISHED])
@pytest.mark.parametrize("encoder", ["", "intfloat/e5-base-v2"])
def test_the_files_are_formatted_and_take_every_model(tmp_path, text, model, encoder):
    import subprocess

    options = ["--model", model, "--text", text, "--card", "cpu"]
    out, config = written(tmp_path, *options, "--encoder", encoder)
    assert config.retrieval.encoder_path == encoder
    assert config.retrieval.ranking == ("fused" if encoder else "bm25")
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(["ruff", *command, "--isolated", out], check=False)
        assert done.returncode == 0


@pytest.mark.parametrize("model", ["Qwen/Qwen3-4B", "meta-llama/Llama-3.2-1B-Instruct"])
def test_the_file_for_a_card_fits_it(tmp_path, text, model):
    _, config = written(tmp_path, "--model", model, "--text", text, "--card", "24")
    found = plan(config)
    found.check()
    assert config.placement.trainer.memory_gb == 24 and config.lora.rank == 32
    assert all(p.name.startswith("trainer") for p in found.programs)


def test_what_is_not_given_is_asked_for(tmp_path, text, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{MODEL}\n{text}\ncpu\n"))
    _, config = written(tmp_path)
    assert config.retrieval.passages == text
    assert "Memory of your GPU in GB, or cpu: " in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{MODEL}\n"))
    with pytest.raises(UserError, match="--text: missing: give it, or answer"):
        written(tmp_path)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"--model": "no/such"}, "--model no/such: "),
        ({"--text": "none.csv"}, "--text none.csv: no such file or folder"),
        ({"--card": "big"}, "--card big: is neither a size in GB nor cpu"),
        ({"--card": "-1"}, "--card -1: is neither"),
        ({"--out": "my.json"}, "--out my.json: is no Python file"),
        ({"--out": "pyproject.py"}, "--out pyproject.py: exists"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, text, monkeypatch, changed, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.py").touch()
    told = {"--model": str(MODEL), "--text": text, "--card": "cpu"} | changed
    with pytest.raises(UserError) as caught:
        init.main([word for pair in told.items() for word in pair])
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (None, "no such file: write one"),
        ("x = 1", "has no function config"),
        ("def config(): return 3", "config() gives a int, no Config"),
        (
            "def config():\n    return 1 / 0",
            "config() raised ZeroDivisionError: ",
        ),
        ("x = (", "raised SyntaxError: '(' was never closed"),
        ("import no_such", "raised ModuleNotFoundError: No module named 'no_such'"),
        (
            "import configs\nfrom dataclasses import replace\n"
            "def config(): return replace(configs.load('ci'), iterations=0)",
            "iterations=0: must be at least 1",
        ),
    ],
)
def test_a_file_that_makes_no_configuration_is_one_line(tmp_path, code, said):
    file = tmp_path / "mine.py"
    if code is not None:
        file.write_text(code)
    with pytest.raises(UserError) as caught:
        cli.parse(["--config", str(file)], configs)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"--config {file}: ")
