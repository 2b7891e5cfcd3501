"""What a stage remembers: made from finished steps, kept in checkpoints, resumed."""

import asyncio
from dataclasses import replace

import jax
import numpy as np
import pytest

from rl.learner import checkpoint
from scope_jax.config import CheckpointConfig
from scope_jax.method.challenger import ChallengerConfig
from scope_jax.method.types import Document
from scope_jax.selfplay.documents import ChallengerPrompt
from scope_jax.selfplay.memory import RecentTasks
from scope_jax.selfplay.rewards import reward_challenger
from scope_jax.selfplay.training import TrainingStage, train
from scope_jax.system.stopping import Stopped
from tests.scope_jax.method.rewarded import K, call, meeting, played, thought
from tests.scope_jax.selfplay.scripted import ScriptedPlayers, empty_rollout, settings
from tests.scope_jax.selfplay.test_carry_over import STEPS, Run, play


def wrote(*tasks):
    return [replace(empty_rollout(("r", "u")), trace={"task": task}) for task in tasks]


def test_the_last_hundred_tasks_are_kept_in_order_and_none_that_is_empty():
    recent = RecentTasks()
    recent.learn(wrote("", *map(str, range(90)), ""))
    recent.learn(wrote(*map(str, range(90, 130))))
    assert recent.tasks == tuple(map(str, range(30, 130)))
    again = RecentTasks()
    again.restore(recent.saved())
    assert again.tasks == recent.tasks
    again.restore(None)
    assert again.tasks == ()


def test_paso_doble_s_reward_falls_with_tasks_like_those_before():
    """Half of the rubrics met: 1.1 - 0.5 + 0.2 d; of two recent tasks one is alike."""
    challenger = ChallengerConfig(rollouts=K, difficulty="paso_doble")
    judge, solver = meeting(*[2] * K)
    config = replace(settings(), challenger=challenger)
    players = ScriptedPlayers(config, judge=judge, solver=solver)
    document = Document(id="1", title="Bern", text="Bern")
    prompt = ChallengerPrompt(
        index=0, document=document, task_type="writing", searches=1
    )
    opening = players.prompts.challenger(document.text, "writing", 1)
    texts = [thought(call("search_r1")), thought("<task>Name five old towns</task>")]
    rollout = played(players, "challenger", opening, texts, n=1)

    def earned(*recent):
        work = reward_challenger(players.world, rollout, prompt, recent)
        return asyncio.run(work).metrics

    assert earned()["reward/difficulty"] == pytest.approx(0.8)
    assert earned("Name FIVE old towns.", "Who?")["reward/difficulty"] == pytest.approx(
        0.7
    )
    found = earned("Name five old towns")
    assert (found["reward/difficulty"], found["reward/diversity"]) == (0, 0)


@pytest.mark.parametrize("stopped_at", [None, 2, 3])
def test_a_stage_resumes_with_what_it_remembered(
    tiny_config, tiny_params, tmp_path, monkeypatch, stopped_at
):
    """Rewards read the memory, so that a memory lost is another policy."""
    memory, seen, stops = RecentTasks(), {}, [stopped_at]

    async def remembering(prompt, seed):
        if seed[3] in stops:
            stops.clear()
            raise Stopped("stopped by SIGINT", 130)
        seen[seed[3]] = memory.tasks
        rollout = await play(prompt, seed)
        spice = sum(map(len, memory.tasks)) * (seed[5] + 1) ** 2 / 100
        return replace(
            rollout, reward=rollout.reward + spice, trace={"task": f"{seed[3]}" * 3}
        )

    def run(path):
        made = Run(path, tiny_config, tiny_params, monkeypatch)
        # The checkpoints that are due: none but each stage's last.
        rare = CheckpointConfig(every=0, permanent_every=0)
        made.parts.world.config = replace(made.parts.world.config, checkpoint=rare)
        stage = TrainingStage("solver", lambda step: [None], remembering, memory=memory)
        for iteration in (1, 2):
            try:
                train(made.parts, iteration, stage)
            except Stopped:
                memory.tasks = ("forgotten",)
                train(made.parts, iteration, stage)
        return made

    made = run(tmp_path / "run")
    assert seen[1] == () and seen[2] == ("111",) * 4  # across steps
    assert seen[STEPS + 1] == ("111",) * 4 + ("222",) * 4  # and iterations
    states = made.trainer.updater("solver").states
    folder = made.folder.checkpoints(2, "solver")
    state, meta, _ = checkpoint.restore(folder, states.abstract())
    assert meta["memory"]["stage"] == list(memory.tasks) and len(memory.tasks) == 16
    stops, memory, seen = [], RecentTasks(), {}
    whole = run(tmp_path / "whole")
    expected, _, _ = checkpoint.restore(
        whole.folder.checkpoints(2, "solver"), states.abstract()
    )
    for one, other in zip(*map(jax.tree.leaves, (state, expected)), strict=True):
        np.testing.assert_array_equal(one, other)
