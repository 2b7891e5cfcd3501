"""The command line: typed overrides, and one clear line for every mistake."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

import configs
from models.errors import UserError
from scope_jax.config import Config
from scope_jax.run import cli, help, mistakes
from scope_jax.system.settings import leaves


def parse(line):
    return cli.parse(line.split(), configs)


def test_a_name_alone_is_that_configuration():
    config, options = parse("--config tiny")
    assert config == configs.load("tiny")
    assert options == cli.RunOptions()
    assert options.folder(config) == Path("runs/tiny")


def test_overrides_are_typed_and_leave_the_rest_alone():
    config, options = parse(
        "--solver.length.soft 512 --config tiny --run out/here --tasks.low=0.25 "
        "--model.path some/model --solver_train.loss.clip_high .3 --profile 2"
    )
    tiny = configs.load("tiny")
    assert config.solver.length.soft == 512
    assert (config.tasks.low, config.model.path) == (0.25, "some/model")
    assert config.solver_train.loss.clip_high == 0.3
    assert options == cli.RunOptions(run=Path("out/here"), profile=2)
    assert options.folder(config) == Path("out/here")
    assert config.challenger_train == tiny.challenger_train
    assert dataclasses.replace(config.tasks, low=tiny.tasks.low) == tiny.tasks


def test_tasks_that_are_given_train_the_solver_alone():
    config, _ = parse("--config tiny --tasks rows.jsonl --seed 3")
    assert (config.tasks.file, config.challenger_train.steps) == ("rows.jsonl", 0)
    assert (
        config
        == parse(
            "--config tiny --seed 3 --tasks.file rows.jsonl --challenger_train.steps 0"
        )[0]
    )


def test_tasks_that_are_given_may_be_said_twice_and_not_against_each_other():
    twice = "--tasks rows.jsonl --tasks.file rows.jsonl --challenger_train.steps=0"
    assert parse(f"--config tiny {twice}") == parse("--config tiny --tasks rows.jsonl")
    for other, said in (
        ("--challenger-train.steps=5", "--challenger_train.steps 5 does: leave that"),
        ("--tasks.file b.jsonl", "--tasks.file b.jsonl names another file: leave one"),
    ):
        for line in (f"--tasks a.jsonl {other}", f"{other} --tasks a.jsonl"):
            with pytest.raises(UserError, match=f"--tasks a.jsonl: .*{said}"):
                parse(f"--config tiny {line}")


def test_dashes_and_underscores_are_the_same():
    dashed, _ = parse("--config tiny --solver-train.group-size 5")
    under, _ = parse("--config tiny --solver_train.group_size 5")
    assert dashed == under
    assert under.solver_train.group_size == 5


@pytest.mark.parametrize(
    ("spelling", "expected"),
    [
        ("--tracking.tensorboard", True),
        ("--tracking.tensorboard true", True),
        ("--tracking.tensorboard=no", False),
        ("--tracking.tensorboard False", False),
        ("--tracking.no-tensorboard", False),
    ],
)
def test_switches_may_be_spelled_in_any_usual_way(spelling, expected):
    config, options = parse(f"--config tiny {spelling} --fresh")
    assert config.tracking.tensorboard is expected
    assert options.fresh


def test_tuples_and_optional_values():
    config, _ = parse(
        "--config tiny --judge.gates entity --judge.required_gates 1 "
        "--model.template None"
    )
    assert config.judge.gates == ("entity",)
    config, _ = parse("--config tiny --judge.gates --judge.required_gates 0")
    assert (config.judge.gates, config.judge.required_gates) == ((), 0)
    assert config.model.template is None
    config, _ = parse("--config tiny --placement.trainer.memory_fraction 0.5")
    assert config.placement.trainer.memory_fraction == 0.5


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "--config: missing"),
        ("--config", "--config: expected one argument"),
        ("--config --fresh", "--config: expected one argument"),
        ("--config=", "--config: missing"),
        ("--config tinny", "did you mean tiny?"),
        ("--config tiny --tasks.lwo 1", "--tasks.lwo: no such field: did you mean"),
        ("--config tiny --clip_high 1", "clip_high?"),
        ("--config tiny --port 1", "no such field: did you mean --inference.port?"),
        ("--config tiny --zzz", "--zzz: no such field: see --help-all"),
        ("--config tiny --solver 3", "--solver: is a section: set one of its fields"),
        ("--config tiny --tasks", "--tasks: expected one argument"),
        ("--config tiny --tasks=", "--tasks: empty: name a file"),
        ("--config tiny --tasks=--", "--tasks=--: is no value"),
        ("--config=--", "--config=--: is no value"),
        (f"--config tiny --prompts {'1' * 300}", "not a shipped set and not a folder"),
        ("--config tiny --tasks.low abc", "--tasks.low abc: could not convert"),
        ("--config tiny --seed 1.5", "--seed 1.5: "),
        ("--config tiny --tool-format xml", "'search_r1', 'tool_call'"),
        ("--config tiny --model.dtype int8", "'auto', 'float32', 'bfloat16'"),
        ("--config tiny --engine.attention fa4", "'blocks', 'pallas', 'fa3'"),
        ("--config tiny --tasks.low", "--tasks.low: Missing value"),
        ("--config tiny --fresh maybe", "--fresh maybe: expected true or false"),
        ("--config tiny stray", "stray: does not belong to a field"),
        ("--config tiny --seed 3 stray", "stray: does not belong to a field"),
        ("--config tiny --inference.port 99999", "must be between 0 and 65535"),
        ("--config tiny --solver_train.sampling.temperature 0.5", "make them equal"),
    ],
)
def test_a_mistake_is_one_line_with_value_and_remedy(line, said, capsys):
    with pytest.raises(UserError) as caught:
        parse(line)
    message = str(caught.value)
    assert said in message
    assert "\n" not in message
    assert not set("│╭╰─") & set(message)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "argv",
    [["--config", "tiny", "--model.path", "\udcff"], ["--config", "tiny\udce9"]]
    + [["--config", "tiny", "--run=a\udcff"], ["--config", "tiny", "--\udcff", "1"]],
)
def test_bytes_that_are_no_text_are_refused_before_a_file_has_to_hold_them(argv):
    for read in (
        lambda: cli.parse(argv, configs),
        lambda: cli.parse_alone(cli.RunOptions, argv[2:] or argv, prog="x", about=""),
    ):
        with pytest.raises(UserError, match=r"\?.*: not UTF-8 text: ") as caught:
            read()
        assert str(caught.value).encode()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("--inference.port 99999", "must be between 0 and 65535"),
        ("--solver-train.optimizer.beta1 2", "must be at least 0 and less than 1"),
        ("--placement.trainer.mesh.fsdp 0", "must be at least 1"),
        ("--engine.slots 0", "must be at least 1"),
        ("--iterations 0", "must be at least 1"),
        ("--profile -3", "must be at least 0"),
        ("--tasks.sub_batch 0", "must be at least 1"),
        ("--judge.grade_temperature.tasks -1", "must be at least 0"),
        ("--inference.search_timeout 0", "must be above 0"),
        ("--retrieval.top_k 0", "must be at least 1"),
        ("--judge.bias.hedging 1.5", "must be between 0 and 1"),
        ("--judge.bias.length_scale 0", "must be at least 1"),
        ("--tracking.alarm.window 0", "must be at least 1"),
        ("--placement.hosts.address host", "placement.hosts: address and index"),
        ("--solver_train.sampling.temperature 0.5", "is not update.temperature 1.0"),
        # the one that was not given is at odds with it
        ("--solver_train.update.temperature 0.5", "sampling.temperature 1.0: is not"),
        ("--judge.gates entity", "required_gates=2: exceeds the number of gates"),
        ("--judge.required_gates 3", "exceeds the number of gates, 2, so no task"),
        ("--judge.gates entity entity", "required_gates=2: exceeds the number of gat"),
        ("--judge.gates entity leaks", "no such gate: use any of entity, source_rele"),
    ],
)
def test_what_a_section_refuses_is_said_with_the_option_as_it_was_given(given, why):
    with pytest.raises(UserError) as caught:
        parse(f"--config tiny --seed 3 {given} --tasks.low 0.1")
    expected = f"{given.replace('solver-train', 'solver_train')}: {why}"
    assert str(caught.value).startswith(expected)


def test_what_a_section_says_without_naming_a_field_is_said_whole():
    """No text is lost, whatever the reason looks like and whoever was given."""
    for argv, expected in (
        (["--tasks.low", "1"], "--tasks.low 1: too low"),
        ([], "tasks: too low"),
        (["stray", "--seed", "3"], "tasks: too low"),
    ):
        assert mistakes.refused("tasks", "too low", argv) == expected
    assert mistakes.refused("", "too low", []) == "too low"
    assert (
        mistakes.refused("tasks", "low", ["--tasks.low", "1"]) == "--tasks.low 1: low"
    )


@pytest.mark.parametrize("given", ["--a-b.c 3", "--a_b.c=3"])
def test_a_value_that_was_given_is_said_as_it_was_given(given):
    said = "a_b.c=3.0: exceeds d=2: lower it"
    as_given = mistakes.as_given(said, ["--seed", "1", *given.split()])
    assert as_given == "--a_b.c 3: exceeds d=2: lower it"
    lines = mistakes.as_given("a_b.c='x y': wrong", ["--a_b.c", "x\ny"])
    assert lines == "--a_b.c x y: wrong"
    for other in (["--d", "2"], ["stray"], []):  # as the configuration has it
        assert mistakes.as_given(said, other) == said
    assert mistakes.as_given("a file: missing", given.split()) == "a file: missing"


def test_every_field_of_every_section_is_documented(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stop:
        parse("--config tiny --help-all")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert configs.describe("tiny") in text
    assert "Every field of the configuration can be set" in text
    for name, _, _ in leaves(configs.load("tiny")):
        assert f"--{name.replace('_', '-')} " in text
    undocumented = [
        f"{cls.__module__}.{cls.__name__}.{field}"
        for cls in section_types(Config)
        for field in fields_without_text(cls)
    ]
    assert undocumented == []


def test_help_has_the_twenty_usual_settings_with_their_values(capsys):
    for word in ("--help", "-h"):
        with pytest.raises(SystemExit) as stop:
            parse(f"--config tiny {word}")
        assert stop.value.code == 0
        text = capsys.readouterr().out
        assert configs.describe("tiny") in text
        shown = re.findall(r"^  --([\w.]+)", text, re.MULTILINE)
        options = [name for name, *_ in leaves(cli.RunOptions())]
        assert shown == [*options, *help.USUAL] and len(help.USUAL) == 20
        assert "  --solver_train.steps 16\n      Training steps per iteration." in text
        count = len([*leaves(configs.load("tiny"))])
        assert f"--help-all lists all {count} settings" in text
        assert max(map(len, text.splitlines())) <= 88


def test_the_text_of_every_setting_is_what_stands_below_it():
    from tyro._docstrings import get_field_docstring

    for cls in (cli.RunOptions, *section_types(Config)):
        for field in dataclasses.fields(cls):
            said = " ".join(get_field_docstring(cls, field.name, ()).split())
            assert help.field_texts(cls)[field.name] == said, (cls, field.name)


def section_types(cls):
    """A settings class and all that it is composed of, each once."""
    from scope_jax.system.settings import field_types

    found = [cls]
    for hint in field_types(cls).values():
        if dataclasses.is_dataclass(hint):
            found += [t for t in section_types(hint) if t not in found]
    return list(dict.fromkeys(found))


def fields_without_text(cls):
    """Fields of a class that tyro finds no documentation for."""
    from tyro._docstrings import get_field_docstring

    return [
        field.name
        for field in dataclasses.fields(cls)
        if not get_field_docstring(cls, field.name, ())
    ]


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ("--sed 1", "--sed: no such field: did you mean --seed?"),
        (
            "--solver_train.optimizer.beta1 2",
            "--solver_train.optimizer.beta1 2: must be at least 0 and less than 1",
        ),
        (
            "--solver-train.sampling.top-p=3",
            "--solver_train.sampling.top_p 3: must be above 0 and at most 1",
        ),
    ],
)
def test_a_script_prints_one_line_and_exits_with_2(mistake, said):
    program = (
        "from scope_jax.run import cli; import configs\n"
        "cli.run_main(lambda argv: cli.parse(argv, configs))"
    )
    command = [sys.executable, "-c", program, "--config", "tiny", *mistake.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"error: {said}\n"
