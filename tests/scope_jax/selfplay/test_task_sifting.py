"""Which written tasks are kept (spec 11.4), and how judge and Solver are asked."""

import json
from dataclasses import replace

import pytest

from scope_jax.method.compat import Compat
from scope_jax.selfplay import tasks as stage
from tests.scope_jax.selfplay.scripted import SCORE, rubrics
from tests.scope_jax.selfplay.task_players import (
    TaskPlayers,
    create,
    draw,
    outcomes,
    result,
    small,
)


def test_tasks_are_in_prompt_order_at_most_one_per_prompt_and_within_the_window(
    tmp_path,
):
    (made, _, records), players = create(tmp_path, small(samples=4))
    places = [tuple(map(int, task.uid.split("/")[2:])) for task in made]
    assert places == sorted(places)
    assert len({place[:2] for place in places}) == len(made)
    assert all(0.2 <= task.difficulty <= 0.8 for task in made)
    assert outcomes(players)["another_of_its_prompt"] > 0
    assert records[0]["tasks/written"] == 32


@pytest.mark.parametrize(
    ("met", "outcome"),
    [(0, "too_hard"), (1, "kept"), (4, "kept"), (5, "too_easy")],
)
def test_both_ends_of_the_window_are_kept(tmp_path, met, outcome):
    def fixed(stem, text, retry):
        if stem.startswith("gate"):
            return SCORE[1]
        if stem == "rubric":
            return rubrics(5)
        return SCORE[int(int(text.rsplit("Names fact ", 1)[1][0]) <= met)]

    _, players = create(tmp_path, small(max_batches=1), judge=fixed)
    assert set(outcomes(players)) - {"bad_format", "another_of_its_prompt"} == {outcome}


def test_a_task_that_no_rollout_can_be_graded_on_is_dropped(tmp_path):
    _, players = create(tmp_path, small(max_batches=1), solver=lambda seed: "no")
    assert set(outcomes(players)) >= {"too_hard"}
    assert players.count("grader") == 0


@pytest.mark.quirk(28)
def test_tasks_over_the_solver_s_limit_are_dropped_unseen(tmp_path):
    config = small(max_batches=1)
    config = replace(
        config, solver_train=replace(config.solver_train, max_prompt_tokens=100)
    )
    _, players = create(tmp_path, config)
    assert set(outcomes(players)) == {"too_long", "bad_format"}
    assert players.asked == []


def test_gates_come_first_then_rubrics_then_rollouts(tmp_path):
    def failing(stem, text, retry):
        return SCORE[0]

    _, players = create(tmp_path, small(max_batches=1), judge=failing)
    assert players.count("rubric") == 0 and players.solver_requests == []

    def unruly(stem, text, retry):
        return SCORE[1] if stem.startswith("gate") else "none"

    _, players = create(tmp_path / "2", small(max_batches=1), judge=unruly)
    assert players.count("rubric") > 0 and players.solver_requests == []


def test_how_judge_and_solver_are_asked_in_stage_2(tmp_path):
    _, players = create(tmp_path, small(max_batches=1))
    assert players.temperatures == {
        "rubric": {(0.0, 16384)},
        "gate_entity": {(0.0, 256)},
        "gate_source_relevance": {(0.0, 256)},
        "grader": {(0.0, 16384)},
    }
    [sampling] = {request.sampling for request in players.solver_requests}
    assert (sampling.temperature, sampling.top_p) == (0.7, 0.9)
    assert sampling.max_new_tokens == 2048


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.quirk(3)
def test_q3_the_reference_hides_the_task_from_rubric_writer_and_grader(
    tmp_path, released
):
    def fair(stem, text, retry):
        if stem.startswith("gate"):
            return SCORE[1]
        return rubrics(5) if stem == "rubric" else SCORE[draw(text, 2)]

    compat = Compat(empty_task_prompt=released)
    _, players = create(tmp_path, small(max_batches=1, compat=compat), judge=fair)
    for stem, text, _ in players.asked:
        shown = "Write about" in text
        assert shown == (stem.startswith("gate") or not released), stem


@pytest.mark.quirk(24)
def test_a_short_question_keeps_its_answer_and_is_measured_by_it(tmp_path):
    """The window is on the share of right answers; without an answer it is dropped."""
    config = small("tool_call", max_batches=1, samples=1, solver_rollouts=4)
    config = replace(
        config, challenger=replace(config.challenger, short_form_qa_ratio=1.0)
    )

    class Short(TaskPlayers):
        async def policy(self, request):
            done = await super().policy(request)
            if "<task>" not in done.text or request.seed64 % 2:
                return done
            return self.completion(f"<answer>Bern</answer>{done.text}")

    def sometimes(seed):
        return f"<answer>{'Bern' if seed % 2 else 'Basel'}</answer>"

    players = Short(tmp_path / "run", config, solver=sometimes)
    stage.create_tasks(players.parts(), 1)
    players.folder.close()
    made, texts, _ = result(players)
    assert made and {task.target for task in made} == {"Bern"}
    assert {task.difficulty for task in made} <= {0.25, 0.5, 0.75}
    assert players.count("grader") == 0
    assert any("no reference answer" in text for text in texts)


def test_every_candidate_says_why(tmp_path):
    _, players = create(tmp_path, small(samples=4, max_batches=2))
    lines = [
        json.loads(line)
        for text in result(players)[1]
        for line in text.split("\n")
        if line
    ]
    by_outcome = {line["outcome"]: line["why"] for line in lines}
    assert by_outcome["bad_format"] == [
        "its conversation or its task has a wrong format: dropped"
    ]
    assert by_outcome["gates_failed"][-1] == "gates failed: dropped"
    assert "lies within 0.2 to 0.8: kept" in by_outcome["kept"][-1]
    assert by_outcome["kept"][0].endswith("sum 2 of 2 needed: passed")
    assert sum("Solver rollout" in line for line in by_outcome["kept"]) == 3
