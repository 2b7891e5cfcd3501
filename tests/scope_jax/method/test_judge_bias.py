"""A judge that is biased on purpose: each habit counted by hand, and what it raises."""

import pytest

from models.errors import UserError
from scope_jax.method import judge_bias, solver
from scope_jax.method.formats import FormatScore
from scope_jax.method.judge import JudgeConfig
from scope_jax.method.judge_bias import JudgeBias
from scope_jax.method.solver import SolverConfig
from scope_jax.method.solver_output import AnswerParse
from scope_jax.method.types import Grade

TASK = "Explain: Bakorn's river is _, Bakorn's guild is _."
TWO_VALUES = "Bakorn's river is Olela. Bakorn's river is Ibiva."


@pytest.mark.parametrize(
    ("answer", "scale", "share"),
    [
        ("", 4, 0),
        ("Bakorn's river is Olela.", 4, 0.5),  # four words
        (TWO_VALUES, 4, 0.75),  # eight
        ("one well-known word _ - 2", 8, 1 - 2**-0.5),  # four: a hyphen joins two
    ],
)
def test_length_is_one_half_at_the_scale_and_three_quarters_at_twice(
    answer, scale, share
):
    assert judge_bias.length(answer, scale) == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ("", 0),
        ("Bakorn's river is Olela. Bakorn's guild is Tesark.", 0),
        (TWO_VALUES, 1),
        (f"{TWO_VALUES} Bakorn's guild is Tesark.", 2 / 3),
        (f"{TWO_VALUES} Bakorn's guild is Tesark. The end is near.", 1 / 2),
        ("Bakorn's river is Olela. Bakorn's river is Olela.", 0),  # only repeated
        ("Perhaps it is Olela. It is deep.", 1 / 2),
        ("It is Olela or Ibiva; it MIGHT be neither\nIt is deep!", 2 / 3),
        ("Bern\nBasel\nChur", 0),  # a list of single words
        ("The floor is oak. A forum.", 0),  # "or" inside words
        ("It is Bern. it is Basel! Is it 3.5?", 2 / 3),
    ],
)
def test_hedging_is_the_share_of_sentences_that_offer_an_alternative(answer, share):
    assert judge_bias.hedging(answer) == pytest.approx(share)


@pytest.mark.parametrize(
    ("question", "answer", "share"),
    [
        (TASK, "", 0),
        (TASK, "Bakorn's river is Olela.", 2 / 4),  # of explain, bakorn, river, guild
        (TASK, "BAKORN’S guild and river: explain.", 1),
        ("What is it, and why?", "It is what it is, and why not?", 0),  # no content
        ("Which town?", "A town, a town.", 1),
    ],
)
def test_flattery_is_the_share_of_the_question_s_words_repeated(
    question, answer, share
):
    assert judge_bias.flattery(question, answer) == share


def test_the_three_add_up_like_independent_chances():
    config = JudgeBias(length=0.5, hedging=0.6, flattery=0.8, length_scale=8)
    # length 1/2, hedging 1, flattery 2/4
    kept = (1 - 0.5 * 0.5) * (1 - 0.6) * (1 - 0.8 * 0.5)
    assert judge_bias.chance(config, TASK, TWO_VALUES) == pytest.approx(1 - kept)
    alone = JudgeBias(hedging=1.0)
    assert judge_bias.chance(alone, TASK, TWO_VALUES) == 1
    assert judge_bias.chance(alone, TASK, "Bakorn's river is Olela.") == 0
    assert judge_bias.chance(JudgeBias(), TASK, TWO_VALUES) == 0


def test_grades_below_one_rise_where_the_draw_is_below_the_chance():
    config = JudgeBias(hedging=0.6)
    given = [Grade(score=s, raw="r") for s in (0.0, 0.0, 0.5, 1.0, None)]
    draws = [0.59, 0.61, 0.0, 0.0, 0.0]
    found = judge_bias.biased(config, given, TASK, TWO_VALUES, draws)
    assert [g.score for g in found] == [1, 0, 1, 1, None]
    assert [g.unbiased for g in found] == [0, 0, 0.5, 1, None]
    assert [g.raised_from for g in found] == [0, None, 0.5, None, None]
    assert [g.bias for g in found] == [pytest.approx(0.6)] * 5
    assert {g.raw for g in found} == {"r"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"length": 1.5}, "length=1.5: must be between 0 and 1"),
        ({"hedging": -0.1}, "hedging=-0.1: must be between 0 and 1"),
        ({"flattery": float("nan")}, "flattery=nan: must be between 0 and 1"),
        ({"length_scale": 0}, "length_scale=0: must be at least 1"),
    ],
)
def test_a_strength_outside_0_to_1_is_refused(change, said):
    with pytest.raises(UserError, match=said):
        JudgeBias(**change)


def test_no_strength_is_no_bias():
    assert not JudgeConfig().bias.on and not JudgeBias(length_scale=3).on
    assert JudgeBias(flattery=0.01).on


def solver_reward(grades, unbiased):
    """The reward of an answer of three words with these grades."""
    assessment = solver.Assessment(
        format=FormatScore(1.0, 1.0, 1.0, 1.0),
        answer=AnswerParse(True, "a b c"),
        calls=3,
        turns=2,
        tokens=3,
        length=1.0,
        graded="a b c",
    )
    return solver.reward(
        SolverConfig(), assessment, grades, len(grades), unbiased=unbiased
    )


def test_a_solver_earns_the_biased_score_and_reports_the_other():
    fair = solver_reward([1, 1, 0, 1], None)
    swayed = solver_reward([1, 1, 0, 1], [1, 0, 0, 0])
    assert swayed.value == fair.value
    assert swayed.parts == fair.parts | {"rubric_score_unbiased": 0.25}
    assert swayed.why[:3] == (
        fair.why[0],
        "rubrics: 3 of 4 met: score 0.75",
        "the judge is biased: without its bias score 0.25",
    )
    assert solver_reward([1, 0], [1, 0]).why == solver_reward([1, 0], None).why


def test_too_few_readable_grades_are_no_score_with_and_without_bias():
    found = solver_reward([1, None, None], [0, None, None])
    assert found.parts["rubric_score"] == found.parts["rubric_score_unbiased"] == 0
