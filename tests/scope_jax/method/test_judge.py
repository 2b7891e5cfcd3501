"""Worked examples 28-39 and 104 of the method, and verdicts that can't be forged."""

import pytest

from scope_jax.method import challenger, judge, prompts
from scope_jax.method.compat import Compat
from scope_jax.method.judge import JudgeConfig
from scope_jax.method.types import Rubric
from tests.scope_jax.method.examples import example

RELEASED = Compat.released()


def rubrics(*texts):
    inside = "".join(f"<rubric>{text}</rubric>" for text in texts)
    return f"<rubrics>{inside}</rubrics>"


@pytest.mark.example(28)
@pytest.mark.quirk(6)
def test_28_priorities():
    parse = judge.parse_rubrics(
        '<rubrics><rubric priority="critical">Identifies A.</rubric>'
        '<rubric type="x" priority=bonus>Explains B.</rubric>'
        "<rubric>Cites C.</rubric></rubrics>"
    )
    assert parse.valid
    assert parse.rubrics == (
        Rubric("Identifies A.", "critical"),
        Rubric("Explains B.", "bonus"),
        Rubric("Cites C.", None),
    )


@pytest.mark.example(29)
@pytest.mark.parametrize("texts", [["a"] * 2, ["a"] * 11, ["a", "b", " ", "c"]])
@pytest.mark.quirk(12)
def test_29_two_eleven_and_a_blank_one_are_invalid(texts):
    assert not judge.parse_rubrics(rubrics(*texts)).valid


@pytest.mark.example(30)
def test_30_a_block_in_thinking_wins_only_in_the_reference():
    text = "<think>write <rubrics>x</rubrics></think>" + rubrics("a", "b", "c")
    assert not judge.parse_rubrics(text, compat=RELEASED).valid
    assert judge.parse_rubrics(text).valid


@pytest.mark.example(31)
@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("<think>ok</think>\n<score>1</score>", 1),
        ("<score> 0.5 </score>", 0.5),
        ("<scores>0</scores>", 0),
        ("<think>hm</think> 1", 1),
    ],
)
@pytest.mark.quirk(11)
def test_31_grades(text, grade):
    assert judge.parse_grade(text) == grade
    assert judge.parse_grade(text, compat=RELEASED) == grade


@pytest.mark.example(32)
def test_32_a_score_in_thinking_wins_only_in_the_reference():
    text = "<think>first <score>0</score></think><score>1</score>"
    assert judge.parse_grade(text, compat=RELEASED) == 0
    assert judge.parse_grade(text) == 1


@pytest.mark.example(33)
@pytest.mark.parametrize(
    "text",
    [
        *("<score>2</score>", "<score>", "score: 1", "0, 1", "", "<score>.</score>"),
        "<score>2</score><scores>1</scores>",
        "<score>2</score><score>1</score>",
    ],
)
def test_33_failures(text):
    assert judge.parse_grade(text) is None
    assert judge.parse_grade(text, compat=RELEASED) is None


def test_an_unclosed_thinking_block_is_unreadable():
    for text in (
        "<think>so <score>1</score>",
        "<think>a</think><think>b<score>1</score>",
    ):
        assert judge.parse_grade(text) is None
        assert judge.parse_gate(text) is None
    assert not judge.parse_rubrics("<think>" + rubrics("a", "b", "c")).valid
    # the template may have opened the block
    assert judge.parse_grade("so <score>0</score></think><score>1</score>") == 1


@pytest.mark.parametrize(
    ("grades", "n", "total"),
    [
        example(34, [1, 0, 1, 1], 4, 3),
        example(35, [1, None, 1, 0], 4, 2),
        example(36, [1, None, None, 0], 4, 1),
        example(37, [1, None, None], 3, None),
        pytest.param([1, 1, 1, 1, 1], 4, 4, id="more grades than rubrics"),
        pytest.param([], 4, None, id="none"),
    ],
)
def test_34_to_37_rubric_scores(grades, n, total):
    assert judge.rubric_score(grades, n) == total


def test_unreadable_grades_can_be_padded():
    assert judge.rubric_score([1, None], 2, JudgeConfig(pad=0.5)) == 1.5


@pytest.mark.example(38)
@pytest.mark.parametrize(
    ("scores", "required", "passes"),
    [([1, 1], 2, True), ([1, 0], 2, False), ([1, None], 1, False)],
)
def test_38_gates(scores, required, passes):
    assert judge.gates_pass(dict(enumerate(scores)), required) is passes


@pytest.mark.example(39)
def test_39_gate_texts():
    assert judge.parse_gate("<score>0</score><score>1</score>") == 0
    assert judge.parse_gate("<score>0.5</score>") is None


@pytest.mark.example(104)
def test_104_difficulty_of_a_task_to_keep():
    answers = [[1, 0, 1, None], [None, None, None, 1], [1, 1, 1, 1], []]
    sums = [judge.rubric_score(grades, 4) for grades in answers]
    assert sums == [2, None, 4, None]
    usable = [total for total in sums if total is not None]
    mean = sum(usable) / len(usable)
    assert challenger.difficulty(mean, 4, kind="normalized") == 0.75


def test_documents_are_source_then_passages_once_without_blanks():
    assert judge.documents_text(" S ", ["a\n", " ", "b"]) == (
        "S\n\n---\n\na\n\n---\n\nb"
    )


def test_each_rubric_is_asked_for_by_its_number():
    asked = judge.grade_prompts(
        prompts.load("default", "search_r1"), "T", "A", [Rubric("x"), Rubric("y")]
    )
    assert ["\n1. x\n" in asked[0][0]["content"], "\n2. y\n" in asked[1][0]["content"]]
    retry = prompts.load("default", "search_r1").grade_retry(asked[0], "bad")
    assert [m["role"] for m in retry] == ["user", "assistant", "user"]
