"""Worked examples 1-18, 40-49, 68-76, 99-102: the Challenger's task and reward."""

import collections
import json

import pytest

from models.errors import UserError
from scope_jax.method import challenger, challenger_output, draws, judge, solver
from scope_jax.method.challenger import ChallengerConfig
from scope_jax.method.compat import Compat
from scope_jax.method.types import Rubric
from tests.scope_jax.method.examples import example

I = "<information>D</information>"  # noqa: E741
ARGUMENTS = {"name": "submit_task", "arguments": {"task_prompt": " P "}}
SUBMIT = f"<tool_call>{json.dumps(ARGUMENTS)}</tool_call>"


@pytest.mark.parametrize(
    ("tool_format", "text", "task", "error"),
    [
        example(
            1,
            "search_r1",
            "<think>plan</think><task>Write a report on X.</task>",
            "Write a report on X.",
            "",
        ),
        example(
            2,
            "search_r1",
            "<task>first</task> more <task>\n second \n</task>",
            "second",
            "",
        ),
        example(3, "search_r1", "<task>  </task>", "", "empty"),
        example(4, "tool_call", "no tags at all", "", "missing"),
        example(5, "function_calls_xml", "<task>open only", "", "unclosed"),
        example(6, "tool_call", SUBMIT, "P", ""),
        example(7, "search_r1", SUBMIT, "", "missing"),
    ],
)
def test_1_to_7_tasks(tool_format, text, task, error):
    parse = challenger_output.parse_task(text, tool_format)
    assert (parse.valid, parse.task) == (bool(task), task)
    assert error in "".join(parse.errors)
    assert bool(parse.errors) == bool(error)


@pytest.mark.example(8)
def test_8_reference_answer():
    parse = challenger_output.parse_task(
        "<answer>Bern</answer><task>Which city?</task>", "search_r1"
    )
    assert (parse.task, parse.reference_answer) == ("Which city?", "Bern")


def chat(*turns):
    """Turns as the specification writes them, behind a prompt."""
    roles = {"A": "assistant", "U": "user", "T": "tool"}
    messages = [{"role": "user", "content": "prompt"}]
    for turn in turns:
        role, content = turn.split(":", 1)
        messages.append({"role": roles[role], "content": content.strip()})
    return messages


NINE = chat(
    "A: <think>a</think><search>q</search>",
    f"U: {I}",
    "A: <think>b</think><task>T</task>",
)
ELEVEN = chat(
    "A: <search>q</search>",
    f"U: {I}",
    "A: <search>q",
    "U: try",
    "A: <think>b</think><task>T</task>",
)
TWELVE = [*NINE, {"role": "assistant", "content": "bye"}]
THIRTEEN = chat(
    "A: x <think>a</think><search>q</search>",
    f"U: {I}",
    "A: <think>never closed <task>T</task>",
)


def tool_chat(searches, guided):
    arguments = {"query_list": ["q"]}
    call = json.dumps({"name": "search", "arguments": arguments})
    written = f"A: <think>a</think>\n<tool_call>\n{call}\n</tool_call>"
    turns = []
    for _ in range(searches):
        turns += [written, 'T: {"result": "D"}'] + ["U: go on"] * guided
    return chat(*turns, "A: <think>b</think><task>T</task>")


def structured(messages):
    """The same conversation with its calls as structured fields."""
    call = {"name": "search", "arguments": {"query_list": ["q"]}}
    return [
        {**m, "content": "<think>a</think>\n", "tool_calls": [call]}
        if "<tool_call>" in m["content"]
        else m
        for m in messages
    ]


XML_CALL = 'A: <function_calls>search(query="q")</function_calls>'
EIGHTEEN = chat(XML_CALL, f"U: {I}", XML_CALL, "U: nudge", "A: <task>T</task>")


@pytest.mark.parametrize(
    ("tool_format", "n", "messages", "strict", "expected"),
    [
        example(9, "search_r1", 1, NINE, False, (1, 1, 1, 1)),
        example(10, "search_r1", 3, NINE, False, (1, 1 / 3, 1, 0.777778)),
        example(11, "search_r1", 2, ELEVEN, True, (1 / 3, 0, 1, 0.444444)),
        example(12, "search_r1", 1, TWELVE, False, (2 / 3, 1, 0, 0.555556)),
        example(13, "search_r1", 1, THIRTEEN, True, (0, 1, 1, 2 / 3)),
        example(14, "search_r1", 1, THIRTEEN, False, (1, 1, 1, 1)),
        example(15, "tool_call", 2, tool_chat(2, 0), False, (1, 1, 1, 1)),
        example(18, "function_calls_xml", 2, EIGHTEEN, False, (0, 0.5, 1, 0.5)),
    ],
)
@pytest.mark.quirk(32)
def test_9_to_18_format_scores(tool_format, n, messages, strict, expected):
    score = challenger_output.format_score(
        messages, n, tool_format, strict_think=strict
    )
    found = (score.think, score.tool, score.structure, score.value)
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("searches", "tool"),
    [example(16, 2, 0.5), example(17, 3, 0.666667)],
)
def test_16_17_guidance_is_mistaken_for_a_result_only_in_the_reference(searches, tool):
    for messages in (tool_chat(searches, 1), structured(tool_chat(searches, 1))):
        released = challenger_output.format_score(
            messages, searches, "tool_call", compat=Compat.released()
        )
        assert released.tool == pytest.approx(tool, abs=1e-6)
        assert released.value == pytest.approx((2 + tool) / 3, abs=1e-6)
        ours = challenger_output.format_score(messages, searches, "tool_call")
        assert ours.value == 1


@pytest.mark.parametrize(
    ("a", "n", "tent", "continuous", "normalized"),
    [
        example(40, 0, 4, 0, 0, 0),
        example(41, 1, 4, 0.5, 1, 0.25),
        example(42, 2, 4, 1, 0.666667, 0.5),
        example(43, 2.5, 5, 1, 0.625, 0.5),
        example(44, 3, 4, 0.5, 0.333333, 0.75),
        example(45, 3.5, 4, 0.25, 0.166667, 0.875),
        example(46, 4, 4, 0, 0, 1),
        example(47, 0.375, 3, 0.25, 1, 0.125),
    ],
)
def test_40_to_47_difficulty(a, n, tent, continuous, normalized):
    for kind, expected in (
        ("tent", tent),
        ("continuous", continuous),
        ("normalized", normalized),
    ):
        found = challenger.difficulty(a, n, kind=kind)
        assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.example(48)
def test_48_another_target():
    assert challenger.difficulty(1.5, 4, target=0.25) == pytest.approx(
        0.833333, abs=1e-6
    )


@pytest.mark.example(49)
def test_49_exact_match():
    found = challenger.match_difficulty([True, False, True, False])
    assert found == pytest.approx(0.666667, abs=1e-6)
    assert challenger.match_difficulty([True]) == 0
    assert challenger.match_difficulty([True] * 4) == 0


FOUR = judge.RubricsParse(True, tuple(Rubric(str(i)) for i in range(4)))
PASS = {"entity": 1, "source_relevance": 1}
X = None


def met(*counts):
    return [None if c is None else [1] * c + [0] * (4 - c) for c in counts]


def rewarded(messages=NINE, n=1, rubrics=FOUR, gates=PASS, grades=()):
    assessment = challenger.assess(messages, n, "search_r1")
    return challenger.reward(
        ChallengerConfig(),
        assessment,
        searches=n,
        rubrics=rubrics,
        gates=gates,
        grades=grades,
    )


@pytest.mark.parametrize(
    ("reward", "f", "d", "r"),
    [
        example(68, rewarded(grades=met(*[2] * 8)), 1, 1, 1.5),
        example(69, rewarded(grades=met(0, 1, 2, 3, 4, 4, 4, 4)), 1, 0.625, 1.125),
        example(70, rewarded(grades=met(3, X, 1, X, 3, X, 1, X)), 1, 1, 1.5),
        example(71, rewarded(grades=met(*[4] * 8)), 1, 0, 0.5, id="all"),
        example(71, rewarded(grades=met(*[0] * 8)), 1, 0, 0.5, id="none"),
        example(71, rewarded(grades=met(*[X] * 8)), 1, 0, 0.5, id="no answer"),
        example(72, rewarded(gates={**PASS, "entity": 0}), 1, 0, 0.5),
        example(
            72, rewarded(gates={**PASS, "entity": None}), 1, 0, 0.5, id="unparseable"
        ),
        example(
            73, rewarded(rubrics=judge.RubricsParse(False, FOUR.rubrics[:2])), 0, 0, 0
        ),
        example(
            74,
            rewarded(chat("A: <think>a</think>bye"), rubrics=None, gates=None),
            0,
            0,
            0,
        ),
        example(75, rewarded(n=3, grades=met(*[2] * 8)), 0.777778, 1, 1.388889),
        example(
            76,
            rewarded(
                chat("A: <think>a</think><task>T</task>", "A: <think>b</think>bye"),
                grades=met(*[2] * 8),
            ),
            0.333333,
            1,
            1.166667,
        ),
    ],
)
@pytest.mark.quirk(7, 8, 9)
def test_68_to_76_rewards(reward, f, d, r):
    assert reward.parts["format"] == pytest.approx(f, abs=1e-6)
    assert reward.parts["difficulty"] == pytest.approx(d, abs=1e-6)
    assert reward.value == pytest.approx(r, abs=1e-6)
    assert reward.trace["branch"]


@pytest.mark.example(99)
def test_99_schedule_of_ten():
    expected = [3, 1, 2, 2, 3, 2, 1, 1, 1, 1]
    assert draws.search_schedule("4:3:2", 10, 43) == expected


@pytest.mark.parametrize(
    ("seed", "letters"), [example(100, 43, "lspwslww"), example(101, 44, "wlpwpslp")]
)
def test_100_101_task_types(seed, letters):
    names = {
        "l": "long_form_qa",
        "s": "summarization",
        "p": "planning",
        "w": "writing",
    }
    assert draws.task_types(8, seed) == [names[c] for c in letters]


@pytest.mark.example(102)
def test_102_schedule_of_two_thousand():
    schedule = draws.search_schedule("4:3:2", 2000, 43)
    assert schedule[:12] == [2, 2, 1, 2, 1, 2, 2, 2, 2, 2, 1, 1]
    assert collections.Counter(schedule) == {1: 889, 2: 667, 3: 444}


def test_one_number_is_for_every_row_and_nonsense_is_refused():
    assert draws.search_schedule("2", 3, 1) == [2, 2, 2]
    for spec in ("", "a", "1:", "-1", "0:0"):
        with pytest.raises(UserError, match="schedule"):
            draws.search_schedule(spec, 3, 1)


@pytest.mark.parametrize("answer", ["Zürich", 'the "Aare"', "Bern on the Aare"])
def test_a_short_answer_is_looked_for_in_what_a_tool_said_not_in_its_json(answer):
    text = 'Zürich, Bern\non the Aare, the "Aare"'
    asked = {"role": "assistant", "content": f"<answer>{answer}</answer>"}

    def score(content):
        told = {"role": "tool", "content": content}
        return challenger_output.short_answer_score([told, asked])

    whole = json.dumps({"result": text})
    assert score(whole) == 1
    assert score(json.dumps({"result": "x"})) == 0
    assert (
        score("Zürich Bern on the Aare, the Aare" + whole[-20:]) == 1
    )  # cut: as it is


def test_a_good_short_answer_counts_without_any_format():
    """F = (3F + A) / 4 whenever A > 0, and so A / 4 where F is 0 (spec 9.1)."""
    messages = chat(
        "U: p <information>Bern</information>",
        "A: <answer>Bern</answer><task>Which city?</task>",
        "A: x",
    )
    given = {"task_type": "short_form_qa", "strict_think": True}
    assessed = challenger.assess(messages, 3, "search_r1", **given)
    assert assessed.format.value == 0 and assessed.short == 1
    assert assessed.value == 0.25


def test_short_questions_need_a_short_answer_from_the_last_result():
    def score(answer, result="The city of Bern."):
        return challenger_output.short_answer_score(
            chat(
                "A: <search>q</search>",
                f"U: <information>{result}</information>",
                f"A: <answer>{answer}</answer><task>Which city?</task>",
            )
        )

    assert score("bern!") == 1
    assert score("yes") == 1
    assert score("Zurich") == 0
    assert score(" ") == 0
    seven = "one two three four five six seven"
    assert score(seven, seven) == 0.5
    assert score(seven + " " + seven, seven + " " + seven) == 0
    drawn = draws.task_types(3, 1, short_form_qa_ratio=1.0)
    assert drawn == ["short_form_qa"] * 3


def test_a_short_question_is_worth_its_exact_matches():
    assessment = challenger.assess(NINE, 1, "search_r1")
    matches = [solver.exact_match(a, ["Bern"]) for a in ("bern", "The Bern.", "x", "y")]
    reward = challenger.reward(
        ChallengerConfig(),
        assessment,
        searches=1,
        rubrics=FOUR,
        gates=PASS,
        matches=matches,
    )
    assert reward.parts["difficulty"] == pytest.approx(2 / 3)


def test_a_reward_names_every_class_of_error():
    messages = chat("A: <search> </search>", "U: try", "A: <task>open")
    assessment = challenger.assess(messages, 1, "search_r1")
    assert assessment.errors == ("unclosed task", "empty query")
    reward = challenger.reward(
        ChallengerConfig(),
        challenger.assess(NINE, 1, "search_r1"),
        searches=1,
        rubrics=judge.RubricsParse(False, (), ("too few rubrics",)),
        gates={"entity": None, "source_relevance": 1},
    )
    assert reward.errors == ("too few rubrics", "unreadable gate entity")
