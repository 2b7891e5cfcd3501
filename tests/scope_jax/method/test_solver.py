"""Worked examples 19-27 and 50-67 of the method: the Solver's answer and reward."""

import pytest

from scope_jax.method import solver, solver_output
from scope_jax.method.solver import LengthConfig, SolverConfig
from tests.scope_jax.method import oracles
from tests.scope_jax.method.examples import example

I = "<information>D</information>"  # noqa: E741


@pytest.mark.parametrize(
    ("text", "answer", "error"),
    [
        example(19, "<think>t</think><answer> A </answer>", "A", None),
        example(20, "<answer>a</answer>x<answer>b</answer>", "b", None),
        example(21, "<answer>open", "", "unclosed"),
        example(
            22,
            "<answer>cut off\nuser\nnow use <answer> and </answer>\nassistant\nsorry",
            "cut off",
            None,
        ),
        example(
            23,
            "s\nuser\nuse <answer> and </answer>\nassistant\n<answer>real</answer>",
            "real",
            None,
        ),
        example(24, "<answer> </answer>", "", "empty"),
        example(25, r"so \boxed{42} ok", "42", None),
        example(
            26,
            '<tool_call>{"name":"submit_answer","arguments":{"answer":"Z"}}</tool_call>',
            "Z",
            None,
        ),
        example(27, "plain", "", "none"),
        pytest.param(
            "<function_calls>answer(answer='x')</function_calls>", "x", None, id="call"
        ),
        pytest.param(
            "<function_calls>answer(x)</function_calls>", "", "malformed", id="bad call"
        ),
    ],
)
def test_19_to_27_answers(text, answer, error):
    parse = solver_output.parse_answer(oracles.messages(text))
    assert parse.answer == answer
    assert parse.valid == bool(answer)
    if error == "none":
        assert parse.errors == ()
    elif error:
        assert error in parse.errors[0]


@pytest.mark.quirk(35)
def test_22_from_messages_and_a_line_that_says_user_does_not_split():
    messages = [
        {"role": "assistant", "content": "<answer>cut off"},
        {"role": "user", "content": "now use <answer> and </answer>"},
        {"role": "assistant", "content": "sorry"},
    ]
    assert solver_output.parse_answer(messages).answer == "cut off"
    split = [{"role": "assistant", "content": "<answer>a\nuser\nb</answer>"}]
    assert solver_output.parse_answer(split).answer == "a\nuser\nb"


@pytest.mark.parametrize(
    ("tokens", "factor"),
    [
        example(50, 0, 1, id="0"),
        example(50, 1024, 1, id="1024"),
        example(51, 1025, 0.9999977645595487),
        example(52, 1280, 0.8608757210636101),
        example(53, 1536, 0.525),
        example(54, 1792, 0.18912427893638994),
        example(55, 2047, 0.05000223544045131),
        example(56, 2048, 0.05, id="2048"),
        example(56, 4096, 0.05, id="4096"),
    ],
)
def test_50_to_56_length_factor(tokens, factor):
    assert solver.length_factor(tokens, LengthConfig()) == pytest.approx(
        factor, abs=1e-15
    )


def conversation(searches, last, think="<think>t</think>"):
    messages = [{"role": "user", "content": "Question: q"}]
    for _ in range(searches):
        messages += [
            {"role": "assistant", "content": think + "<search>q</search>"},
            {"role": "user", "content": I},
        ]
    return [*messages, {"role": "assistant", "content": think + last}]


def words(count):
    return "<answer>" + " ".join(["w"] * count) + "</answer>"


def rewarded(messages, grades, targets=()):
    assessment = solver.assess(
        SolverConfig(),
        messages,
        "search_r1",
        encode=str.split,
        cut=lambda text, n: " ".join(text.split()[:n]),
    )
    return assessment, solver.reward(
        SolverConfig(), assessment, grades, 4, targets=targets
    )


@pytest.mark.parametrize(
    ("messages", "grades", "form", "accuracy", "search", "value"),
    [
        example(57, conversation(2, words(3)), [1, 1, 1, 0], 1, 0.75, 2 / 3, 1.316667),
        example(58, conversation(0, words(3)), [1] * 4, 2 / 3, 1, 0, 1.333333),
        example(59, conversation(4, ""), [], 2 / 3, 0, 1, 0.433333),
        example(60, conversation(1, words(1536)), [1] * 4, 1, 0.525, 1 / 3, 1.058333),
        example(61, conversation(1, words(3000)), [1] * 4, 1, 0.05, 1 / 3, 0.583333),
        example(62, conversation(1, words(4096)), [1] * 4, 1, 0.05, 1 / 3, 0.583333),
        example(63, conversation(1, words(4097)), [], 1, 0, 1 / 3, 0.533333),
        example(64, conversation(3, words(3), ""), [0] * 4, 2 / 3, 0, 1, 0.433333),
        example(
            65, conversation(2, words(3)), [None, 1, 1, 1], 1, 0.75, 2 / 3, 1.316667
        ),
        example(66, conversation(2, words(3)), [None] * 4, 1, 0, 2 / 3, 0.566667),
    ],
)
def test_57_to_66_rewards(messages, grades, form, accuracy, search, value):
    _, reward = rewarded(messages, grades)
    assert reward.parts["format"] == pytest.approx(form)
    assert reward.parts["accuracy"] == pytest.approx(accuracy)
    assert reward.parts["search"] == pytest.approx(search)
    assert reward.value == pytest.approx(value, abs=1e-6)


def test_61_the_judge_sees_the_hard_limit_and_63_nothing():
    assessment, _ = rewarded(conversation(1, words(3000)), [1] * 4)
    assert len(assessment.graded.split()) == 2048
    assessment, reward = rewarded(conversation(1, words(4097)), [])
    assert assessment.graded is None
    assert "not graded" in reward.trace["branch"]


@pytest.mark.example(67)
def test_67_gold_answers():
    messages = conversation(1, "<answer>The Paris!</answer>")
    _, reward = rewarded(messages, (), ["paris", "lutetia"])
    assert reward.value == pytest.approx(1.533333, abs=1e-6)


def test_the_last_turn_s_calls_count_for_search_but_not_for_format():
    messages = conversation(1, "<search>q</search>")
    assert solver_output.format_score(messages, "search_r1").tool == 1
    assessment, _ = rewarded(messages, ())
    assert assessment.calls == 2


def test_a_conversation_without_turns_scores_nothing():
    score = solver_output.format_score([{"role": "user", "content": "q"}], "tool_call")
    assert score.value == 0


def test_a_reward_names_every_class_of_error():
    messages = conversation(1, "<answer>open")
    messages[1]["content"] = "<search>q"
    _, reward = rewarded(messages, ())
    assert reward.errors == ("unclosed answer", "unclosed search tag")
