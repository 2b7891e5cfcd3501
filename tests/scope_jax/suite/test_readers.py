"""Files of rows: what is refused in one line, and what a model is shown of a row."""

import json

import pytest

from models.errors import UserError
from models.mixed_text import spans_of
from scope_jax.method import prompts
from scope_jax.method.types import TOOL_FORMATS
from scope_jax.suite import readers, rows
from scope_jax.suite.openings import opening
from scope_jax.suite.rows import Item
from tests.scope_jax.suite.test_by_hand import written

USER = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize("name", [*readers.BENCHMARKS, "nq", "bamboogle"])
def test_other_columns_are_one_line_that_says_what_is_expected(name, tmp_path):
    file = written(tmp_path, [{"columns": "of", "something": "else"}])
    with pytest.raises(UserError) as refused:
        readers.read(name, [file])
    said = str(refused.value)
    assert "\n" not in said and "rows.jsonl" in said
    chosen = readers.BENCHMARKS.get(name, readers.BENCHMARKS["short_form"])
    assert chosen.form in said


@pytest.mark.parametrize(
    ("name", "row", "why"),
    [
        ("researchqa", {"query": " ", "rubric": []}, "query is ' '"),
        ("researchqa", {"query": 3, "rubric": []}, "query is 3"),
        ("researchqa", {"query": "q", "rubric": "r"}, "a rubric that is no list"),
        ("researchqa", {"query": "q", "rubric": ["r"]}, "no object"),
        ("researchqa", {"query": "q", "rubric": [{"type": "t"}]}, "no rubric_item"),
        (
            "researchrubrics",
            {"prompt": "p", "rubrics": [{"criterion": "c", "weight": "5"}]},
            "weight is '5'",
        ),
        (
            "researchrubrics",
            {"prompt": "p", "rubrics": [{"criterion": "c"}]},
            "weight is None",
        ),
        (
            "healthbench",
            {"prompt": USER, "rubrics": [{"criterion": "c", "points": True}]},
            "points is True",
        ),
        ("healthbench", {"prompt": "hello", "rubrics": []}, "not a conversation"),
        ("rows", {"source": "s", "prompt": "p", "items": 3}, "items is 3"),
        ("rows", {"source": "s", "prompt": "p", "items": "a b"}, "items is 'a b'"),
        (
            "rows",
            {"source": "s", "prompt": "p", "items": [{"text": "t", "weight": 10**400}]},
            "weight is 1000",
        ),
        ("healthbench", {"prompt": [], "rubrics": []}, "not a conversation"),
        (
            "wildbench",
            {
                "conversation_input": [{"role": "assistant", "content": "x"}],
                "checklist": [],
            },
            "ends with a user's message",
        ),
        ("wildbench", {"conversation_input": USER, "checklist": [1]}, "checklist is"),
        ("research_plan_gen", {"Goal": "g", "Rubric": [""]}, "Rubric is"),
        ("arena_hard_cw", {"uid": "u", "prompt": "p"}, "no baseline's answer to u"),
        ("nq", {"question": "q", "data_source": "nq"}, "golden_answers is None"),
        (
            "nq",
            {"question": "q", "data_source": "nq", "golden_answers": []},
            "no right answer",
        ),
        (
            "popqa",
            {"question": "q", "data_source": "nq", "golden_answers": ["a"]},
            "no row of popqa",
        ),
        ("rows", {"source": "s", "prompt": "p", "judge": "mood"}, "judge 'mood'"),
        ("rows", {"source": "s", "prompt": "p", "judge": "pairwise"}, "no baseline"),
        ("rows", {"source": "s", "prompt": "p", "judge": "equivalence"}, "no golds"),
        ("rows", {"source": "s", "prompt": "p", "items": [3]}, "item 3"),
        ("rows", {"source": "s", "messages": USER}, "takes a prompt"),
        ("drb_race", {"prompt": "", "topic": ""}, "topic is ''"),
    ],
)
def test_a_row_of_another_form_is_named(name, row, why, tmp_path):
    with pytest.raises(UserError, match="row") as refused:
        readers.read(name, [written(tmp_path, [row])])
    assert why in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "[1, 2]", "[{", '{"a": 1', '{"a": "\\ud800"}'])
@pytest.mark.parametrize("form", ["jsonl", "json", "parquet"])
def test_a_file_of_something_else_is_refused(text, form, tmp_path):
    file = tmp_path / f"rows.{form}"
    file.write_text(text)
    with pytest.raises(UserError, match=f"rows.{form}"):
        readers.read("researchqa", [file])
    with pytest.raises(UserError, match="no such file"):
        readers.read("researchqa", [tmp_path / "none.jsonl"])
    with pytest.raises(UserError, match="unknown: use one of researchqa"):
        readers.read("race", [file])


def test_a_row_of_ones_own(tmp_path):
    given = [
        {"source": "mine", "prompt": "p", "items": ["a", {"text": "b", "weight": -2}]},
        {"source": "mine", "prompt": "q", "judge": "equivalence", "golds": ["x"]},
        {"source": "mine", "messages": USER, "judge": "checklist", "items": ["a"]},
        {"source": "mine", "prompt": "r", "judge": "pairwise", "baseline": "theirs"},
    ]
    read = readers.read("rows", [written(tmp_path, given)])
    assert read[0].items == (Item("a"), Item("b", -2.0))
    assert [row.opening for row in read] == ["solver", "solver", "dialogue", "raw"]
    assert [row.short for row in read] == [False, True, False, False]


def test_equal_prompts_of_a_source_are_one_question():
    one = rows.Row(source="s", judge="criteria", prompt="p", items=(Item("a"),))
    two = rows.Row(source="s", judge="criteria", prompt="p", items=(Item("b"),))
    other = rows.Row(source="s", judge="criteria", prompt="P")
    assert one.question == two.question != other.question


@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
def test_what_a_model_is_shown(tool_format):
    shipped = prompts.load("default", tool_format)
    asked = rows.Row(source="s", judge="criteria", prompt="Why?")
    assert opening(asked, shipped, 5) == tuple(shipped.solver("Why?", 5))
    raw = rows.Row(source="s", judge="pairwise", prompt="Why?", opening="raw")
    [message] = opening(raw, shipped, 5)
    assert message == {"role": "user", "content": "Why?"}
    assert spans_of(message["content"]) == ((0, 4),)
    told = (
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "<think>"},
    )
    talk = rows.Row(source="s", judge="checklist", messages=told, opening="dialogue")
    first, second = opening(talk, shipped, 5)
    rules, _, rest = first["content"].rpartition("\n\n")
    assert (first["role"], rest, second["content"]) == ("system", "Be kind.", "<think>")
    assert "at most 5 searches" in rules and "<answer>" in rules
    assert "Question" not in rules and "Lisbon" not in rules
    start, end = spans_of(first["content"])[-1]
    assert first["content"][start:end] == "Be kind."
    assert spans_of(second["content"]) == ((0, 7),)


def test_a_set_without_a_preamble_has_the_default_one(tmp_path):
    import shutil
    from pathlib import Path

    folder = tmp_path / "set"
    shutil.copytree(Path(prompts.__file__).parent / "default", folder)
    for file in folder.glob("preamble_*"):
        file.unlink()
    loaded = prompts.load(str(folder), "tool_call")
    default = prompts.load("default", "tool_call")
    assert loaded.dialogue(USER, 4) == default.dialogue(USER, 4)


def test_the_file_of_a_row_is_its_json(tmp_path):
    text = json.dumps({"source": "s", "prompt": "a\u2028b"}, ensure_ascii=False)
    file = tmp_path / "rows.jsonl"
    file.write_text(f"{text}\n\n{text}\n", encoding="utf-8")
    assert [row.prompt for row in readers.read("rows", [file])] == ["a\u2028b"] * 2
