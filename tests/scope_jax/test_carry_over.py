"""Iteration 2 goes on with its role's own weights, moments and counts; KL is to M0."""

import asyncio
import contextlib
from dataclasses import replace

import jax
import numpy as np
import pytest

import configs
from models import sharding
from rl import checkpoint
from rl.losses import LossConfig
from rl.optimizer import OptimizerConfig
from rl.records import Datum, Trajectory
from rl.update import Updater
from rl.update_config import UpdateConfig
from scope_jax.compilation import Compilations
from scope_jax.run_folder import RunFolder
from scope_jax.tracking import Tracker, TrackingConfig
from scope_jax.training import Scored, advantaged, train

LOSS = LossConfig(kl_coefficient=0.1)
OPTIMIZER = OptimizerConfig(learning_rate=1e-2)
SHAPE = UpdateConfig(length=32, rows=2, capacity=4, logit_chunk=16)
STEPS = 2


def rollouts(role, step):
    """A step's rollouts: the same wherever they are asked for."""
    rng = np.random.default_rng([step, role == "solver"])
    found = []
    for sample in range(4):
        ids = tuple(int(t) for t in rng.integers(0, 60, 12))
        mask = (0,) * 5 + (1,) * 7
        uid = f"{(step - 1) // STEPS + 1}/{role}/{step}/0/{sample}"
        row = Datum(
            uid=uid,
            turn=0,
            ids=ids,
            loss_mask=mask,
            sampled_mask=mask,
            logprobs=(-4.0,) * 12,
        )
        trajectory = Trajectory(
            uid=uid,
            group=0,
            role=role,
            messages=(),
            turns=(),
            rows=(row,),
            finish_reason="done",
        )
        found.append(Scored(trajectory=trajectory, reward=float(rng.random())))
    return found


class Session:
    """What `train` asks of a session, around real updates, checkpoints and records."""

    def __init__(self, folder, decoder, base):
        config = configs.load("ci")
        self.config = replace(config, tracking=TrackingConfig(tensorboard=False))
        self.folder = RunFolder(folder, self.config)
        self.tracker = Tracker(folder, self.config.tracking)
        self.compilations = Compilations()
        self._decoder, self._base, self.exported = decoder, base, {}
        self._updaters = {}
        self.reference = self.updater("solver").states.reference_params(base)

    def updater(self, role):
        if role not in self._updaters:
            mesh = sharding.make_mesh()
            self._updaters[role] = Updater(self._decoder, LOSS, OPTIMIZER, SHAPE, mesh)
        return self._updaters[role]

    def stage_config(self, role):
        return replace(self.config.solver_train, steps=STEPS)

    def base(self):
        return self._base

    def use_policy(self, params):
        pass

    async def engine_work(self):
        return {}, {}

    def run(self, work):
        return asyncio.run(work)

    def profiled(self, step, name):
        return contextlib.nullcontext()

    def export(self, iteration, role, params):
        self.exported[iteration, role] = jax.device_get(params)


@pytest.fixture(scope="module")
def session(tiny_config, tiny_params, tmp_path_factory):
    made = Session(tmp_path_factory.mktemp("carry") / "run", tiny_config, tiny_params)
    for iteration in (1, 2):
        for role in ("challenger", "solver"):

            async def collect(step, progress, role=role):
                return rollouts(role, step)

            train(made, iteration, role, collect)
    return made


@pytest.mark.parametrize("role", ["challenger", "solver"])
def test_two_iterations_are_one_training_that_was_not_interrupted(
    session, role, tiny_params
):
    updater = session.updater(role)
    state = updater.states.init(tiny_params)
    kl = []
    for step in range(1, 2 * STEPS + 1):
        datums = advantaged(rollouts(role, step))
        state, metrics = updater.update(state, session.reference, datums)
        kl.append(metrics["loss/kl"])
    found, _, step = checkpoint.restore(
        session.folder.checkpoints(2, role), updater.states.abstract()
    )
    assert step == int(found.step) == int(found.opt_state.count) == 2 * STEPS
    # Weights, both moments and the counts, bit for bit.
    for mine, one in zip(*map(jax.tree.leaves, (found, state)), strict=True):
        np.testing.assert_array_equal(mine, one)
    records = [r for i in (1, 2) for r in session.tracker.of(i, role)]
    assert [r["loss/kl"] for r in records] == pytest.approx(kl, rel=1e-6)
    # To M0: what iteration 2 begins with is away from it already.
    assert kl[0] == pytest.approx(0.0, abs=1e-9) and kl[STEPS] > 1e-4


def test_each_role_has_weights_and_moments_of_its_own(session):
    states = [
        checkpoint.restore(
            session.folder.checkpoints(2, role),
            session.updater(role).states.abstract(),
        )[0]
        for role in ("challenger", "solver")
    ]
    for field in ("params", "opt_state"):
        one, two = (jax.tree.leaves(getattr(state, field)) for state in states)
        assert any((a != b).any() for a, b in zip(one, two, strict=True))
    for role, state in zip(("challenger", "solver"), states, strict=True):
        exported = session.exported[2, role]
        np.testing.assert_array_equal(exported["embed"], state.params["embed"])
