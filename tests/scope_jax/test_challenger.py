"""Worked examples 1-18, 40-49, 68-76, 99-102: the Challenger's task and reward."""

import collections
import json

import pytest

from models.errors import UserError
from scope_jax import challenger, judge, solver
from scope_jax.challenger import ChallengerConfig
from scope_jax.compat import Compat
from scope_jax.types import Rubric

I = "<information>D</information>"  # noqa: E741
ARGUMENTS = {"name": "submit_task", "arguments": {"task_prompt": " P "}}
SUBMIT = f"<tool_call>{json.dumps(ARGUMENTS)}</tool_call>"


@pytest.mark.parametrize(
    ("tool_format", "text", "task", "error"),
    [
        pytest.param(
            "search_r1",
            "<think>plan</think><task>Write a report on X.</task>",
            "Write a report on X.",
            "",
            id="1",
        ),
        pytest.param(
            "search_r1",
            "<task>first</task> more <task>\n second \n</task>",
            "second",
            "",
            id="2",
        ),
        pytest.param("search_r1", "<task>  </task>", "", "empty", id="3"),
        pytest.param("tool_call", "no tags at all", "", "missing", id="4"),
        pytest.param("function_calls_xml", "<task>open only", "", "unclosed", id="5"),
        pytest.param("tool_call", SUBMIT, "P", "", id="6"),
        pytest.param("search_r1", SUBMIT, "", "missing", id="7"),
    ],
)
def test_1_to_7_tasks(tool_format, text, task, error):
    parse = challenger.parse_task(text, tool_format)
    assert (parse.valid, parse.task) == (bool(task), task)
    assert error in "".join(parse.errors)
    assert bool(parse.errors) == bool(error)


def test_8_reference_answer():
    parse = challenger.parse_task(
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
        pytest.param("search_r1", 1, NINE, False, (1, 1, 1, 1), id="9"),
        pytest.param("search_r1", 3, NINE, False, (1, 1 / 3, 1, 0.777778), id="10"),
        pytest.param("search_r1", 2, ELEVEN, True, (1 / 3, 0, 1, 0.444444), id="11"),
        pytest.param("search_r1", 1, TWELVE, False, (2 / 3, 1, 0, 0.555556), id="12"),
        pytest.param("search_r1", 1, THIRTEEN, True, (0, 1, 1, 2 / 3), id="13"),
        pytest.param("search_r1", 1, THIRTEEN, False, (1, 1, 1, 1), id="14"),
        pytest.param("tool_call", 2, tool_chat(2, 0), False, (1, 1, 1, 1), id="15"),
        pytest.param(
            "function_calls_xml", 2, EIGHTEEN, False, (0, 0.5, 1, 0.5), id="18"
        ),
    ],
)
def test_9_to_18_format_scores(tool_format, n, messages, strict, expected):
    score = challenger.format_score(messages, n, tool_format, strict_think=strict)
    found = (score.think, score.tool, score.structure, score.value)
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("searches", "tool"),
    [pytest.param(2, 0.5, id="16"), pytest.param(3, 0.666667, id="17")],
)
def test_16_17_guidance_is_mistaken_for_a_result_only_in_the_reference(searches, tool):
    for messages in (tool_chat(searches, 1), structured(tool_chat(searches, 1))):
        released = challenger.format_score(
            messages, searches, "tool_call", compat=Compat.released()
        )
        assert released.tool == pytest.approx(tool, abs=1e-6)
        assert released.value == pytest.approx((2 + tool) / 3, abs=1e-6)
        ours = challenger.format_score(messages, searches, "tool_call")
        assert ours.value == 1


@pytest.mark.parametrize(
    ("a", "n", "tent", "continuous", "normalized"),
    [
        pytest.param(0, 4, 0, 0, 0, id="40"),
        pytest.param(1, 4, 0.5, 1, 0.25, id="41"),
        pytest.param(2, 4, 1, 0.666667, 0.5, id="42"),
        pytest.param(2.5, 5, 1, 0.625, 0.5, id="43"),
        pytest.param(3, 4, 0.5, 0.333333, 0.75, id="44"),
        pytest.param(3.5, 4, 0.25, 0.166667, 0.875, id="45"),
        pytest.param(4, 4, 0, 0, 1, id="46"),
        pytest.param(0.375, 3, 0.25, 1, 0.125, id="47"),
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


def test_48_another_target():
    assert challenger.difficulty(1.5, 4, target=0.25) == pytest.approx(
        0.833333, abs=1e-6
    )


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
        ChallengerConfig(), assessment, rubrics=rubrics, gates=gates, grades=grades
    )


@pytest.mark.parametrize(
    ("reward", "f", "d", "r"),
    [
        pytest.param(rewarded(grades=met(*[2] * 8)), 1, 1, 1.5, id="68"),
        pytest.param(
            rewarded(grades=met(0, 1, 2, 3, 4, 4, 4, 4)), 1, 0.625, 1.125, id="69"
        ),
        pytest.param(rewarded(grades=met(3, X, 1, X, 3, X, 1, X)), 1, 1, 1.5, id="70"),
        pytest.param(rewarded(grades=met(*[4] * 8)), 1, 0, 0.5, id="71 all"),
        pytest.param(rewarded(grades=met(*[0] * 8)), 1, 0, 0.5, id="71 none"),
        pytest.param(rewarded(grades=met(*[X] * 8)), 1, 0, 0.5, id="71 no answer"),
        pytest.param(rewarded(gates={**PASS, "entity": 0}), 1, 0, 0.5, id="72"),
        pytest.param(
            rewarded(gates={**PASS, "entity": None}), 1, 0, 0.5, id="72 unparseable"
        ),
        pytest.param(
            rewarded(rubrics=judge.RubricsParse(False, FOUR.rubrics[:2])),
            0,
            0,
            0,
            id="73",
        ),
        pytest.param(
            rewarded(chat("A: <think>a</think>bye"), rubrics=None, gates=None),
            0,
            0,
            0,
            id="74",
        ),
        pytest.param(
            rewarded(n=3, grades=met(*[2] * 8)), 0.777778, 1, 1.388889, id="75"
        ),
        pytest.param(
            rewarded(
                chat("A: <think>a</think><task>T</task>", "A: <think>b</think>bye"),
                grades=met(*[2] * 8),
            ),
            0.333333,
            1,
            1.166667,
            id="76",
        ),
    ],
)
def test_68_to_76_rewards(reward, f, d, r):
    assert reward.parts["format"] == pytest.approx(f, abs=1e-6)
    assert reward.parts["difficulty"] == pytest.approx(d, abs=1e-6)
    assert reward.value == pytest.approx(r, abs=1e-6)
    assert reward.trace["branch"]


def test_99_schedule_of_ten():
    expected = [3, 1, 2, 2, 3, 2, 1, 1, 1, 1]
    assert challenger.search_schedule("4:3:2", 10, 43) == expected


def test_100_101_task_types():
    names = {
        "l": "long_form_qa",
        "s": "summarization",
        "p": "planning",
        "w": "writing",
    }
    for seed, letters in ((43, "lspwslww"), (44, "wlpwpslp")):
        assert challenger.task_types(8, seed) == [names[c] for c in letters]


def test_102_schedule_of_two_thousand():
    schedule = challenger.search_schedule("4:3:2", 2000, 43)
    assert schedule[:12] == [2, 2, 1, 2, 1, 2, 2, 2, 2, 2, 1, 1]
    assert collections.Counter(schedule) == {1: 889, 2: 667, 3: 444}


def test_one_number_is_for_every_row_and_nonsense_is_refused():
    assert challenger.search_schedule("2", 3, 1) == [2, 2, 2]
    for spec in ("", "a", "1:", "-1", "0:0"):
        with pytest.raises(UserError, match="schedule"):
            challenger.search_schedule(spec, 3, 1)


def test_short_questions_need_a_short_answer_from_the_last_result():
    def score(answer, result="The city of Bern."):
        return challenger.short_answer_score(
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
    drawn = challenger.task_types(3, 1, short_form_qa_ratio=1.0)
    assert drawn == ["short_form_qa"] * 3


def test_a_short_question_is_worth_its_exact_matches():
    assessment = challenger.assess(NINE, 1, "search_r1")
    matches = [solver.exact_match(a, ["Bern"]) for a in ("bern", "The Bern.", "x", "y")]
    reward = challenger.reward(
        ChallengerConfig(), assessment, rubrics=FOUR, gates=PASS, matches=matches
    )
    assert reward.parts["difficulty"] == pytest.approx(2 / 3)
