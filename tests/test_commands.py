"""Every command that README, docs and the scripts' --help print does what it says.

A command runs up to its work: its options are read and checked by the script itself,
and the plan of a training must fit the devices that the command names.
"""

import ast
import importlib
import json
import re
import shlex
from pathlib import Path

import pytest

import configs
from models.hf.published import PUBLISHED
from retrieval.config import RetrievalConfig
from scope_jax.report import page as report
from scope_jax.report import serve
from scope_jax.run import cli, export
from scope_jax.run.plan import plan

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
# Their docstrings are what --help says.
PROGRAMS = [*sorted(ROOT.glob("scripts/*.py")), *sorted(ROOT.glob("configs/*.py"))]
# A command ends with its line, its quotation, a remark or the next command.
COMMAND = re.compile(r"python scripts/(\w+)\.py((?:[^`\n#&]|(?<!\s)#)*)")


def texts():
    """(page, its text) of all that a person reads."""
    for page in PAGES:
        yield page, page.read_text(encoding="utf-8")
    for program in PROGRAMS:
        text = ast.get_docstring(ast.parse(program.read_text(encoding="utf-8")))
        yield program, text or ""


def commands():
    """(page, script, arguments) of every command."""
    for page, text in texts():
        text = text.replace("\\\n", " ")
        whole = []
        for script, rest in COMMAND.findall(text):
            said = re.split(r" {3,}(?![ -])", rest.strip())[0]  # then a remark
            arguments = shlex.split(said.replace("[", "").replace("]", ""))
            if arguments[:1] == ["..."]:  # as the command before, but for its hosts
                kept = whole[: whole.index("--placement.hosts.count")]
                arguments = [*kept, *arguments[1:]]
            whole = arguments
            yield page.name, script, arguments


def option_lists():
    """(page, arguments) of quoted options of a training, two at least."""
    for page in PAGES:
        for quoted in re.findall(r"`(--[^`]+)`", page.read_text(encoding="utf-8")):
            arguments = quoted.split()
            if sum(word.startswith("--") for word in arguments) > 1:
                yield page.name, arguments


COMMANDS, OPTIONS = list(commands()), list(option_lists())


def named(cases):
    return [pytest.param(*c, id=" ".join([c[0], *map(str, c[1:])])[:90]) for c in cases]


def trains(arguments):
    """A training that its own plan does not refuse."""
    config, _ = cli.parse(arguments, configs)
    plan(config).check()


@pytest.mark.parametrize(("page", "script", "arguments"), named(COMMANDS))
def test_every_command_is_understood_and_fits(
    page, script, arguments, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(f"scripts.{script}")
    ran = []

    def work(*args, **options):
        ran.append(args)
        return "", ""

    if any(word.startswith("--help") for word in arguments):
        with pytest.raises(SystemExit) as ended:
            module.main(arguments)
        assert ended.value.code in (0, None)
        return
    if script == "init":
        assert cli.parse_alone(module.Options, arguments, prog="", about="")
        return
    if "my.py" in arguments:  # as init.py writes it; tests/scripts/test_init.py
        text = 'import configs\ndef config():\n    return configs.load("ci")\n'
        (tmp_path / "my.py").write_text(text)
    if script == "train":
        if "PATH" in arguments:
            file = tmp_path / "PATH" / "config.json"
            file.parent.mkdir()
            file.write_text(json.dumps(PUBLISHED["Qwen/Qwen2.5-0.5B-Instruct"]))
        trains(arguments)
        return
    if script == "eval":
        assert cli.parse(arguments, configs, options=module.EvalOptions)
        return
    if script == "build_index":
        assert cli.parse_alone(RetrievalConfig, arguments, prog="", about="")
        return
    if script == "bench":
        monkeypatch.setattr(module.BENCHMARKS[arguments[0]], "run", work)
        monkeypatch.setattr(module.harness, "report", lambda *_: None)
    elif script == "docs":
        if arguments:  # without any it writes, which another test looks at
            assert module.main(arguments) == 0
        return
    elif script == "serve":
        assert cli.parse(arguments, configs, options=module.ServeOptions)
        return
    elif script == "soak" or script == "warmstart":
        assert cli.parse_alone(module.Options, arguments, prog="", about="")
        return
    elif script == "ablate":
        given, _ = module.parser().parse_known_args(arguments)  # others: train.py's
        if not (given.collect or given.swap):
            module.main([*arguments, "--dry-run"])
        return
    elif script == "check_exports":
        monkeypatch.setattr(module, "exports", work)
        monkeypatch.setattr(module, "read", lambda *_: [])
        monkeypatch.setattr(module, "made", lambda *_: "")
    elif script == "report":
        monkeypatch.setattr(report, "write", work)
        monkeypatch.setattr(serve, "serve", work)
    elif script == "pictures":  # which needs a browser
        assert [a for a in arguments if not a.startswith("--")] == ["runs/tiny"]
        return
    else:
        assert script == "export_hf"
        monkeypatch.setattr(export, "export", work)
    module.main(arguments)
    assert len(ran) == 1


@pytest.mark.parametrize(("page", "arguments"), named(OPTIONS))
def test_every_list_of_options_is_of_a_training(page, arguments):
    if any(word.startswith("--help") for word in arguments):
        arguments = [name.replace("NAME", "tiny") for name in arguments]
        with pytest.raises(SystemExit):
            cli.parse(arguments, configs)
    else:
        cli.parse(["--config", "qwen3_8b", *arguments], configs)


def test_the_five_gpus_of_the_readme_are_enough():
    [arguments] = [
        a for page, a in OPTIONS if page == "README.md" and "--placement" in a[0]
    ]
    trains(["--config", "qwen3_8b", *arguments])


def test_the_commands_are_found():
    assert len(COMMANDS) > 20 and len(OPTIONS) >= 5
    scripts = {script for _, script, _ in COMMANDS}
    ours = {file.stem for file in ROOT.glob("scripts/*.py")}
    assert scripts == ours - {"check_packages"}  # which is no command
    every = [word for _, _, arguments in COMMANDS for word in arguments]
    assert "--peer-micro" in every and "--chart" in every and "#" not in every
