"""ZPPO played: which prompts a step has, what the judge is asked, what is learnt."""

import asyncio
import json
from dataclasses import replace

import pytest

from scope_jax.method.solver import SolverConfig
from scope_jax.method.task_buffer import ReposingConfig
from scope_jax.method.types import Document, Rubric, Task
from scope_jax.selfplay.metering import step_metrics
from scope_jax.selfplay.reposing import SolverPrompt, TaskBuffer
from tests.scope_jax.selfplay.scripted import (
    SCORE,
    ScriptedPlayers,
    empty_rollout,
    settings,
)

TASKS = [
    Task(
        uid=f"1/tasks/1/{number}/0",
        type="writing",
        text=f"Write about Town{number}.",
        document=Document(id="1", title="Town", text=f"Town{number} lies by {number}."),
        searches=1,
        rubrics=tuple(Rubric(f"Names fact {i}.", "critical") for i in range(1, 5)),
        gate_scores={"entity": 1},
        difficulty=0.5,
    )
    for number in range(8)
]


def judge(stem, text, retry):
    """Answers for even towns what meets three of four rubrics, else what meets one."""
    if stem == "judge_answer":
        assert "Names fact 1." in text and "lies by" in text
        even = any(f"Town{n}" in text for n in range(0, 8, 2))
        return f"<think>t</think><answer>judge: {'good' if even else 'bad'}</answer>"
    number = int(text.split("Names fact ")[1][0])
    return SCORE[int(number <= (3 if "judge: good" in text else 1))]


def buffer(**changes):
    reposing = ReposingConfig(**{"kind": "ncq", "candidates": 2} | changes)
    config = settings(solver=SolverConfig(reposing=reposing))
    players = ScriptedPlayers(config, judge=judge)
    return TaskBuffer(players.world, TASKS), players


def group_of(prompt, place, scores, *, step=1):
    """A played group of a prompt: answers that say their score."""
    return [
        replace(
            empty_rollout((42, 1, "solver", step, place, sample)),
            group=place,
            role="solver",
            reward=score,
            posed=prompt.posed,
            metrics={"reward/rubric_score": score, "reward/format": score},
            trace={"task_uid": prompt.task.uid, "answer": f"answer {score:g}"},
        )
        for sample, score in enumerate(scores)
    ]


def learnt(memory, *groups):
    """Plays groups as a step would, the judge's answer asked for where it is wanted."""
    rollouts = []
    for place, (prompt, scores) in enumerate(groups):
        group = group_of(prompt, place, scores)
        rollouts += asyncio.run(memory.with_right_answer(prompt, group))
    return memory.learn(rollouts), rollouts


def plain(number):
    return SolverPrompt(TASKS[number], TASKS[number].text)


def test_off_a_step_has_its_own_tasks_and_nothing_is_held():
    memory, players = buffer(kind="off")
    assert memory.prompts(TASKS[:4], 1) == [plain(n) for n in range(4)]
    group = group_of(plain(0), 0, [0.0, 0.25])
    assert asyncio.run(memory.with_right_answer(plain(0), group)) is group
    assert players.asked == []


def test_failed_tasks_come_back_with_their_wrong_answers_and_leave_when_solved():
    memory, players = buffer()
    found, _ = learnt(
        memory,
        (plain(0), [0.0, 0.25, 0.5]),  # mean 1/4
        (plain(1), [0.25, 0.5, 0.75]),  # mean 1/2: not held
        (plain(2), [0.25, 0.0, 0.0]),  # mean 1/12
    )
    assert found == {
        "buffer/held": 2,
        "buffer/admitted": 2,
        "buffer/retired": 0,
        "buffer/with_right_answer": 0,
    }
    made = memory.prompts(TASKS[4:8], 2)  # a quarter of four: one of each kind
    assert [one.posed for one in made] == ["", "", "", "", "replay", "ncq"]
    assert made[4].text == made[4].task.text
    hardest = made[5]
    assert hardest.task.uid == TASKS[2].uid
    assert "answer 0\n" in hardest.text and "answer 0.25" in hardest.text
    assert "Names fact" not in hardest.text
    # What a re-posed group earns says nothing of its task; a plain one does.
    learnt(memory, (hardest, [1.0, 1.0]), (replace(made[4], task=TASKS[0]), [0.5, 0.5]))
    assert [one.task.uid for one in memory.held] == [TASKS[2].uid]
    assert players.count("judge_answer") == 0  # NCQ needs no teacher


def test_the_right_candidate_is_the_judge_s_answer_where_it_is_right():
    memory, players = buffer(kind="bcq", share=0.5)
    failed, solved = [0.0, 0.25], [0.75, 1.0]
    _, rollouts = learnt(
        memory, (plain(0), failed), (plain(1), failed), (plain(2), solved)
    )
    assert players.count("judge_answer") == 2
    answers = [one.trace.get("judge_answer") for one in rollouts[::2]]
    assert answers == ["judge: good", "judge: bad", None]
    assert [one.right for one in memory.held] == ["judge: good", ""]
    made = memory.prompts(TASKS[4:8], 2)[-2:]
    assert [one.posed for one in made] == ["bcq", "ncq"]
    assert "judge: good" in made[0].text and "answer 0\n" in made[0].text
    assert "judge: bad" not in made[1].text
    # Nobody is asked again for a task whose right answer is known.
    learnt(memory, (plain(0), failed))
    assert players.count("judge_answer") == 2
    orders = {
        text.index("judge: good") < text.index("answer 0\n")
        for step in range(9)
        for text in [memory.prompts(TASKS[4:8], step)[-2].text]
    }
    assert orders == {True, False}


def test_as_many_candidates_as_the_prompt_has_room_for_and_no_prompt_without_one():
    memory, players = buffer(candidates=4)
    learnt(memory, (plain(0), [0.0, 0.05, 0.1, 0.15]))

    def limited(limit):
        config = players.config
        stage = replace(config.solver_train, max_prompt_tokens=limit)
        players.config = replace(config, solver_train=stage)
        again = TaskBuffer(players.world, TASKS)
        again.restore(memory.saved())
        posed = [one for one in again.prompts(TASKS[4:8], 2) if one.posed == "ncq"]
        return posed[0].text.count("</candidate>") if posed else 0

    full = players.world.solver_prompt_tokens(memory.prompts(TASKS[4:8], 2)[-1].text)
    assert [limited(n) for n in (full, full - 1, 1)] == [4, 3, 0]


@pytest.mark.parametrize("kind", ["ncq", "bcq"])
def test_a_buffer_from_a_checkpoint_has_the_same_prompts(kind):
    memory, _ = buffer(kind=kind, share=0.5, replay=0.5)
    learnt(memory, *((plain(n), [0.0, n / 20]) for n in range(6)))
    again, _ = buffer(kind=kind, share=0.5, replay=0.5)
    again._known = {}  # tasks of an iteration before, which only the checkpoint has
    again.restore(json.loads(json.dumps(memory.saved())))
    steps = [memory.prompts(TASKS[4:8], step) for step in range(2, 9)]
    assert [again.prompts(TASKS[4:8], step) for step in range(2, 9)] == steps
    assert any(step != steps[0] for step in steps)
    replay = next(one for one in steps[0] if one.posed == "replay")
    learnt(again, (replay, [1.0, 1.0]))
    assert len(again.held) == 5


def test_re_posed_groups_are_no_part_of_a_step_s_statistics():
    own = group_of(plain(0), 0, [0.5, 1.0])
    posed = group_of(replace(plain(1), posed="ncq"), 1, [0.0, 0.0])
    found, alone = step_metrics([*own, *posed]), step_metrics(own)
    assert found.pop("posed/ncq") == 2 and found.pop("posed/ncq_score") == 0
    assert found == alone
    assert found["reward/mean"] == found["reward/format"] == 0.75
