"""Truth in a world of three entities, each number computed by hand."""

import math

import numpy as np
import pytest

from scope_jax.small_world.tasks import rubric_text as rubric
from scope_jax.small_world.tasks import stated_facts
from scope_jax.small_world.truth import (
    answer_metrics,
    answer_truth,
    grade_kind,
    rubric_fact,
    rubric_kind,
    task_metrics,
    task_truth,
    within_groups_correlation,
)
from scope_jax.small_world.world import Entity, Fact, World

RIVER = Fact("Bakorn", "river", "Olela")
GUILD = Fact("Bakorn", "guild", "Tesark")
SOURCE = Fact("Olela", "source", "Lumath")
SEAT = Fact("Tesark", "seat", "Bakorn")


@pytest.fixture(scope="module")
def world():
    """Bakorn lies at the Olela, whose source is not in it; its guild is the Tesark."""
    facts = {"Bakorn": (RIVER, GUILD), "Olela": (SOURCE,), "Tesark": (SEAT,)}
    kinds = {"Bakorn": "town", "Olela": "river", "Tesark": "guild"}
    return World(
        tuple(
            Entity(index, name, kinds[name], found, "train")
            for index, (name, found) in enumerate(facts.items())
        )
    )


TWO = "Report: Bakorn's river is _, Bakorn's guild is _."
DEEP = (
    "Explain: Bakorn's guild is _, Bakorn's river is a river, that river's source is _."
)


def test_an_answer_is_worth_the_share_of_wanted_facts_that_it_states(world):
    for answer, score, sentences in (
        ("Bakorn's river is Olela. Bakorn's guild is Tesark.", 1.0, 2),
        ("Bakorn's river is Olela.", 0.5, 1),
        ("Bakorn's river is Olela. Bakorn's river is Lumath. So it is!", 0.0, 3),
        ("", 0.0, 0),
        (" ... ", 0.0, 0),
    ):
        found = answer_truth(world, TWO, answer)
        assert (found.score, found.sentences) == (score, sentences)
        assert found.wanted == (RIVER, GUILD)


def test_only_blanks_that_can_be_filled_count(world):
    task = "Plan: Bakorn's river is _, Bakorn's twin is _, The river's source is _."
    found = answer_truth(world, task, "Bakorn's river is Olela.")
    assert (found.wanted, found.score) == ((RIVER,), 1.0)
    assert found.json()["why"][-1] == "true score 1"


def test_a_task_that_wants_nothing_says_so(world):
    found = answer_truth(world, "Plan: Bakorn's twin is _.", "Bakorn's twin is X.")
    assert (found.wanted, found.score) == ((), 0.0)
    assert "no blank of the task can be filled: score 0" in found.json()["why"]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("Bakorn's river is Olela.", "met"),
        ("Bakorn's river is Olela. Bakorn's river is Olela.", "met"),
        ("Bakorn's river is Olela. Bakorn's river is Suwela.", "two_values"),
        ("Bakorn's river is Suwela. Lumath's river is Olela.", "wrong_value"),
        ("Lumath's river is Olela.", "value_elsewhere"),
        ("Bakorn's guild is Olela.", "value_elsewhere"),
        ("Bakorn's guild is Tesark.", "absent"),
        ("The river is Olela.", "absent"),
    ],
)
def test_what_an_answer_says_of_a_rubric(world, answer, kind):
    right = {1.0: kind == "met", 0.0: kind != "met", None: False}
    for grade, deserved in right.items():
        found = answer_truth(world, TWO, answer, [rubric(RIVER)], [grade])
        assert found.grades == ((kind, deserved),)


def test_a_grade_is_of_what_the_judge_has_read(world):
    answer = "Bakorn's guild is Tesark. Bakorn's river is Olela."
    found = answer_truth(
        world,
        TWO,
        answer,
        [rubric(RIVER)],
        [0.0],
        graded="Bakorn's guild is Tesark.",
    )
    assert (found.score, found.grades) == (1.0, (("absent", True),))


def test_grades_of_a_rubric_without_a_fact_are_neither_right_nor_wrong(world):
    rubrics = ["Identifies what is asked.", rubric(GUILD)]
    found = answer_truth(world, TWO, "Bakorn's guild is Tesark.", rubrics, [0.0, 0.0])
    assert found.grades == (None, ("met", False))
    assert found.json()["why"][2:] == [
        "rubric 2: met, so its grade is wrong",
        "true score 0.5",
    ]


def test_kinds_of_rubrics(world):
    wanted = [RIVER]
    assert rubric_kind(world, rubric(RIVER), wanted) == "true"
    assert rubric_kind(world, rubric(GUILD), wanted) == "unwanted"
    assert rubric_kind(world, "Identifies that Bakorn's river is Lumath.", wanted) == (
        "false"
    )
    assert rubric_kind(world, "Identifies that Bakorn's twin is Lumath.", []) == "false"
    assert rubric_kind(world, "Identifies what is asked.", wanted) == "generic"
    assert rubric_fact(f"{rubric(RIVER)} {rubric(GUILD)}") is None
    assert grade_kind({}, RIVER) == "absent"


def test_what_is_wrong_with_a_task_or_a_score_is_named(world):
    false = "Identifies that Bakorn's river is Lumath."
    task = "Plan: Bakorn's river is _, Bakorn's twin is _."
    found = task_truth(world, task, "Olela", [rubric(RIVER), false, false])
    assert found.flaws == ("impossible blank", "off its document", "false rubric")
    assert found.json()["flaws"] == list(found.flaws)
    assert task_truth(world, "Plan.", "Bakorn").flaws == ("no blank",)
    answer = "Bakorn's river is Olela."
    assert answer_truth(world, TWO, answer, [rubric(RIVER)], [1.0]).flaws == ()
    wrong = answer_truth(world, TWO, answer, [rubric(RIVER), false], [0.0, 0.0])
    assert wrong.json()["flaws"] == ["wrong rubric", "wrong grade"]
    assert answer_truth(world, "Plan.", answer).flaws == ("unanswerable",)


def test_metrics_of_a_solver_s_step_by_hand(world):
    """Two groups of two; rewards follow the truth in one and oppose it in the other."""
    full = "Bakorn's river is Olela. Bakorn's guild is Tesark."
    half = "Bakorn's river is Olela."
    rubrics = [rubric(RIVER), rubric(GUILD)]
    truths = [
        answer_truth(world, TWO, full, rubrics, [1.0, 0.0]),  # met right, met wrong
        answer_truth(world, TWO, half, rubrics, [1.0, 1.0]),  # met right, absent wrong
        answer_truth(world, TWO, "", rubrics),  # nothing graded
        answer_truth(world, "Plan: Bakorn's twin is _.", full, rubrics, [1.0, 1.0]),
    ]
    found = answer_metrics(truths, rewards=[0.9, 0.1, 0.4, 0.6], groups=[0, 0, 1, 1])
    # true scores minus their groups' means: .25, -.25, 0, 0; rewards: .4, -.4, -.1, .1
    assert found.pop("truth/reward_correlation") == pytest.approx(
        0.2 / math.sqrt(0.125 * 0.34)
    )
    assert found == pytest.approx(
        {
            "truth/score": (1 + 0.5 + 0 + 0) / 4,
            "truth/unanswerable": 1 / 4,
            "truth/answer_sentences": (2 + 1 + 2) / 3,
            "truth/grades_right": 4 / 6,
            "truth/grades_right_met": 4 / 5,
            "truth/grades_right_absent": 0.0,
        }
    )


def test_metrics_of_tasks_by_hand(world):
    impossible = "Plan: Bakorn's twin is _, Bakorn's river is _, Bakorn's river is _."
    vague = "Plan: The river's source is _."
    truths = [
        task_truth(world, DEEP, "Bakorn", [rubric(GUILD), rubric(SEAT)], ["", "x"]),
        task_truth(world, impossible, "Bakorn", ["Identifies what is asked."]),
        task_truth(world, vague, "Olela"),
        task_truth(world, "Say: Tesark's seat is _.", "Olela", (), [SEAT.sentence()]),
    ]
    # blanks: 2 good; 1 impossible, 1 good, 1 repeated; 1 vague; 1 good
    assert task_metrics(truths) == pytest.approx(
        {
            "truth/impossible": 1 / 7,
            "truth/vague": 1 / 7,
            "truth/repeated": 1 / 7,
            "truth/answerable": 2 / 4,
            "truth/blanks": 7 / 4,
            "truth/hops": (1 + 2 + 1 + 1) / 4,
            "truth/described": 1 / 4,
            "truth/off_document": 1 / 4,
            "truth/rubrics_true": 1 / 3,
            "truth/rubrics_generic": 1 / 3,
            "truth/difficulty": 1 / 3,
        }
    )
    assert truths[1].json()["why"] == [
        "blank 1: impossible",
        "blank 2: Bakorn's river is Olela. (1 to read)",
        "blank 3: repeated",
        "rubric 1: generic",
    ]
    assert truths[3].json()["why"] == [
        "blank 1: Tesark's seat is Bakorn. (1 to read)",
        "starts at an entity that the document is not about",
        "true scores of the attempts: 1",
    ]


def test_what_was_not_measured_has_no_metric(world):
    assert task_metrics([]) == {}
    alone = task_metrics([task_truth(world, "Write a poem.", "Bakorn")], "truth/kept")
    assert alone == {
        "truth/kept/answerable": 0.0,
        "truth/kept/blanks": 0.0,
        "truth/kept/described": 0.0,
        "truth/kept/off_document": 0.0,
    }
    one = answer_metrics([answer_truth(world, TWO, "")], [0.3], [0])
    assert one == {"truth/score": 0.0, "truth/unanswerable": 0.0}


def test_correlation_within_groups_sees_no_difference_between_groups():
    # Between the groups reward and truth go together; within them they are opposed.
    rewards, scores = [1.0, 0.9, 0.2, 0.1], [0.8, 0.9, 0.0, 0.1]
    assert np.corrcoef(rewards, scores)[0, 1] > 0.9
    assert within_groups_correlation(rewards, scores, [5, 5, 7, 7]) == (
        pytest.approx(-1.0)
    )


@pytest.mark.parametrize("fixed", [[0.1] * 3 + [0.7] * 3, [0.0] * 6])
def test_correlation_is_nan_where_one_does_not_vary(fixed):
    """Not even by the rounding of a mean of 0.1, 0.1 and 0.1."""
    groups, other = [0, 0, 0, 1, 1, 1], [0.0, 0.5, 1.0, 0.0, 0.3, 0.3]
    assert math.isnan(within_groups_correlation(fixed, other, groups))
    assert math.isnan(within_groups_correlation(other, fixed, groups))
    assert math.isnan(within_groups_correlation([], [], []))


def test_a_rubric_is_no_answer():
    """A grader that reads both must not find the fact in the rubric."""
    assert rubric_fact(rubric(RIVER)) == RIVER
    assert rubric_fact(f"Identifies that {RIVER.sentence()}") == RIVER
    assert stated_facts(rubric(RIVER)) == {}
