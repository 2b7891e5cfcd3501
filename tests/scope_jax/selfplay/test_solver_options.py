"""The Solver's stage with its options on: real updates and checkpoints, resumed."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from models import forward
from models.config import DecoderConfig
from rl.learner import checkpoint
from rl.learner.config import UpdateConfig
from rl.learner.losses import LossConfig
from scope_jax.config import CheckpointConfig
from scope_jax.method.axpo import ResamplingConfig
from scope_jax.method.rubric_weights import RubricWeights
from scope_jax.method.solver import SolverConfig
from scope_jax.method.task_buffer import ReposingConfig
from scope_jax.method.teacher import TeacherConfig
from scope_jax.method.types import Document, Rubric, Task
from scope_jax.selfplay.stages import train_solver
from scope_jax.selfplay.task_file import write_tasks
from scope_jax.system.stopping import Stopped
from tests.scope_jax.selfplay import test_carry_over
from tests.scope_jax.selfplay.scripted import SCORE, ScriptedPlayers, settings
from tests.scope_jax.selfplay.test_carry_over import STEPS, Run

DECODER = DecoderConfig(
    model_type="qwen3",
    vocab_size=264,
    num_layers=1,
    hidden_size=16,
    intermediate_size=16,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    rms_norm_eps=1e-6,
    tie_embeddings=False,
    max_position=2048,
)
TASKS = [
    Task(
        uid=f"1/tasks/1/{number}/0",
        type="writing",
        text=f"About Town{number}.",
        document=Document(id="1", title="Town", text=f"Town{number} lies by {number}."),
        searches=1,
        rubrics=tuple(Rubric(f"Names fact {i}.", "bonus") for i in (1, 2, 3)),
        gate_scores={"entity": 1},
        difficulty=0.5,
    )
    for number in range(4)
]
PRESETS = {
    "all": {
        "resampling": ResamplingConfig(count=2, fail=0.6),
        "reposing": ReposingConfig(kind="bcq", hard=0.6, share=1.0, replay=1.0),
        "teacher": TeacherConfig(kind="critique"),
        "search_decay": "cosine",
    },
    "dual path": {"teacher": TeacherConfig(kind="dual_path")},
}
RUBRICS = {"all": "pow3r_instant", "dual path": "equal"}
WEIGHTS = {"all": {"distillation": 0.1}, "dual path": {}}
WEIGHTS["dual path"] = {"distillation": 1.0, "likelihood": 1.0}


async def judge(messages, *, temperature, max_tokens, seed64):
    """Grades by the digits of an answer; answers and corrects in its own words."""
    text = messages[0]["content"]
    if "Rubric:" in text:
        number = text.split("Names fact ")[1][0]
        return SCORE[int(number in text.rsplit("met=", 1)[-1])]
    if "Go through the answer" in text:
        return "<think>t</think>more facts"
    return "<think>t</think><answer>met=12</answer>"


class School(Run):
    """Solver training of two iterations; ``stop`` is a step at which it is stopped."""

    def __init__(self, path, monkeypatch, kind, stop=None):
        loss = LossConfig(kl_coefficient=0.1, **WEIGHTS[kind])
        shape = UpdateConfig(length=1024, rows=2, capacity=4, logit_chunk=64)
        monkeypatch.setattr(test_carry_over, "SHAPE", shape)
        params = jax.jit(forward.init, static_argnums=0)(DECODER, jax.random.key(3))
        super().__init__(path, DECODER, params, monkeypatch)
        self.trainer.engine.prepare_scoring = lambda: None
        base = settings()
        stage = replace(
            self.trainer.stage_config("solver"),
            loss=loss,
            sampling=base.solver_train.sampling,
            max_prompt_tokens=600,
            max_context_tokens=1000,
            max_response_tokens=1000,
        )
        config = replace(
            base,
            prompts="small_world",
            solver=SolverConfig(**PRESETS[kind]),
            solver_train=stage,
            judge=replace(base.judge, weights=RubricWeights(kind=RUBRICS[kind])),
            checkpoint=CheckpointConfig(every=0, permanent_every=0),
        )
        # Another loss than both roles had when the trainer was made.
        self.trainer._config, self.trainer._updaters = config, {}
        players = ScriptedPlayers(config)
        self._players, self._stops = players, {stop}
        world = replace(
            players.world, judge=judge, policy=self.policy, logprobs=self.logprobs
        )
        self.parts = replace(self.parts, world=world)
        for iteration in (1, 2):
            write_tasks(self.folder.tasks(iteration), TASKS)
            try:
                train_solver(self.parts, iteration)
            except Stopped:
                train_solver(self.parts, iteration)

    async def policy(self, request):
        """Searches, then meets rubrics by chance, more where it is shown candidates."""
        if len(self.tracker.records) + 1 in self._stops:
            self._stops.clear()
            raise Stopped("stopped by SIGINT", 130)
        text = self._players.renderer.decode(request.ids)
        seed = request.seed64 % 7
        if text.endswith("<search>"):
            said = f"other {seed}</search>"
        elif "<information>" not in text:
            said = "<think>t</think>\n<search>q</search>"
        else:
            said = f"<think>t</think>\n<answer>met={'123'[: seed // 3]}</answer>"
        done = self._players.completion(said)
        return replace(done, logprobs=(-0.1 * (1 + seed),) * len(done.ids))

    async def logprobs(self, ids, temperature):
        return [-5 - id / 1000 for id in ids[1:]]

    def lines(self, step):
        """The records of a step's rollouts."""
        file = self.folder.rollouts(1 + (step - 1) // STEPS, "solver", step)
        return [json.loads(line) for line in file.read_text().splitlines()]

    def end(self):
        """Everything that the last checkpoint holds, its memory included."""
        states = self.trainer.updater("solver").states
        folder = self.folder.checkpoints(2, "solver")
        state, meta, step = checkpoint.restore(folder, states.abstract())
        assert step == 2 * STEPS
        return jax.tree.leaves(state), meta


@pytest.mark.parametrize("kind", PRESETS)
def test_a_stage_with_its_options_resumes_bit_for_bit(tmp_path, monkeypatch, kind):
    whole = School(tmp_path / "whole", monkeypatch, kind)
    cut = School(tmp_path / "cut", monkeypatch, kind, stop=2)
    assert cut._stops == set()
    for step in range(1, 2 * STEPS + 1):
        assert cut.lines(step) == whole.lines(step)
    (one, remembered), (other, again) = whole.end(), cut.end()
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)
    assert remembered == again
    records = whole.tracker.of(1, "solver")
    assert all(np.isfinite(record["loss/grad_norm"]) for record in records)
    assert all(record["loss/teacher_kl"] for record in records)
    posed = {line.get("posed", "") for step in (2, 3, 4) for line in whole.lines(step)}
    if kind == "all":
        assert posed == {"", "replay", "bcq", "resampled"}
        assert remembered["memory"]["stage"]
    else:
        assert posed == {""} and "memory" not in remembered
        assert {line["advantage"] for line in whole.lines(1)} == {0.0}
        assert records[0]["loss/likelihood"] > 0
