"""Iteration 2 starts from its role's own weights, moments and counts; KL is to M0."""

import asyncio
import shutil
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import configs
from models import sharding
from models.errors import UserError
from models.fingerprint import fingerprint
from models.lora import LoraConfig
from models.unstacked import unstack
from rl.learner import checkpoint
from rl.learner.config import UpdateConfig
from rl.learner.losses import LossConfig
from rl.learner.optimizer import OptimizerConfig
from rl.records import Datum
from scope_jax.config import CheckpointConfig
from scope_jax.run.folder import LostArtefactError, RunFolder
from scope_jax.run.tracking import Tracker, TrackingConfig
from scope_jax.selfplay import trainer
from scope_jax.selfplay.estimates import with_advantages
from scope_jax.selfplay.metering import StepMeter
from scope_jax.selfplay.parts import Parts
from scope_jax.selfplay.stages import train_challenger
from scope_jax.selfplay.training import TrainingStage, train
from scope_jax.system.hosts import ONE_HOST
from scope_jax.system.stopping import Stopped
from tests.records import comparable
from tests.scope_jax.inference.inference_world import byte_tokenizer
from tests.scope_jax.selfplay.scripted import empty_rollout

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
        datum = Datum(
            uid=uid,
            turn=0,
            ids=ids,
            loss_mask=mask,
            sampled_mask=mask,
            logprobs=(-4.0,) * 12,
        )
        rollout = empty_rollout((42, *uid.split("/")))
        found.append(replace(rollout, datums=(datum,), reward=float(rng.random())))
    return found


async def play(prompt, seed):
    """The rollout that ``rollouts`` has for this seed."""
    _, _, role, step, _, sample = seed
    return rollouts(role, step)[sample]


class Engine:
    """No engine: nothing is sampled here; its base model is in memory once."""

    def __init__(self, base, params, config, *, lora, serves):
        assert serves == bool(lora)
        self.base_params = unstack(params, base.decoder) if serves else None

    def use(self, params):
        self.params = params

    def check(self, expected):
        assert tuple(jax.jit(fingerprint)(self.params).tolist()) == expected

    async def work(self):
        return {}


class Run:
    """Two roles trained for two iterations: real updates, checkpoints and records."""

    def __init__(
        self, path, decoder, weights, monkeypatch, *, challenger=STEPS, rank=0
    ):
        self.rank, config = rank, configs.load("ci")
        stage = replace(
            config.solver_train,
            steps=STEPS,
            prompts_per_step=1,
            group_size=4,
            loss=LOSS,
            optimizer=OPTIMIZER,
            update=SHAPE,
        )
        config = replace(
            config,
            lora=LoraConfig(rank=rank, learning_rate_factor=1.0),
            tracking=TrackingConfig(tensorboard=False),
            challenger_train=replace(stage, steps=challenger),
            solver_train=stage,
        )
        self.exported = {}
        base = SimpleNamespace(
            decoder=decoder,
            mesh=sharding.make_mesh(),
            tokenizer=byte_tokenizer(),
            hosts=ONE_HOST,
            load=lambda: weights,
            export=lambda folder, params, lora=None: self.exported.update(
                {folder: jax.device_get(params)}
            ),
        )
        monkeypatch.setattr(trainer, "PolicyEngine", Engine)
        monkeypatch.setattr(trainer.hf, "vocab_rows", lambda tokenizer: None)
        self.folder = RunFolder(path, config)
        self.tracker = Tracker(path, config.tracking)
        self.trainer = trainer.Trainer(config, self.folder, base, weights)
        serving = SimpleNamespace(run=asyncio.run, work=self.trainer.engine.work)
        self.parts = Parts(
            folder=self.folder,
            tracker=self.tracker,
            hosts=ONE_HOST,
            world=SimpleNamespace(config=config, truth=None),
            serving=serving,
            trainer=self.trainer,
            meter=StepMeter(self.trainer.engine, serving, ONE_HOST),
        )


@pytest.fixture(scope="module", params=[0, 2], ids=["full", "rank2"])
def run(request, tiny_config, tiny_params, tmp_path_factory):
    path = tmp_path_factory.mktemp("carry") / "run"
    with pytest.MonkeyPatch.context() as patch:
        made = Run(path, tiny_config, tiny_params, patch, rank=request.param)
    for iteration in (1, 2):
        for role in ("challenger", "solver"):
            stage = TrainingStage(role, lambda step: [None], play)
            train(made.parts, iteration, stage)
    return made


def test_updates_that_were_skipped_count_behind_a_new_start_too(
    tiny_config, tiny_params, tmp_path, monkeypatch
):
    """Or a program that is started again and again walks to the end untrained."""
    broken = tiny_params | {"final_norm": tiny_params["final_norm"] * np.nan}
    stage = TrainingStage("solver", lambda step: [None], play)
    made = Run(tmp_path, tiny_config, broken, monkeypatch)
    train(made.parts, 1, stage)
    assert [r["loss/skipped"] for r in made.tracker.records] == [1, 1]
    made.folder.close()
    made = Run(tmp_path, tiny_config, broken, monkeypatch)
    with pytest.raises(UserError, match="3 gradients in a row were not finite"):
        train(made.parts, 2, stage)
    made.folder.close()


@pytest.mark.parametrize("role", ["challenger", "solver"])
def test_two_iterations_are_one_training_that_was_not_interrupted(run, role):
    updater = run.trainer.updater(role)
    state = updater.states.init(run.trainer.first_weights(role))
    kl = []
    for step in range(1, 2 * STEPS + 1):
        datums = with_advantages(rollouts(role, step))
        state, metrics = updater.update(state, run.trainer.reference, datums)
        kl.append(metrics["loss/kl"])
    found, _, step = checkpoint.restore(
        run.folder.checkpoints(2, role), updater.states.abstract()
    )
    assert step == int(found.step) == int(found.opt_state.count) == 2 * STEPS
    # Weights, both moments and the counts, bit for bit.
    for mine, one in zip(*map(jax.tree.leaves, (found, state)), strict=True):
        np.testing.assert_array_equal(mine, one)
    records = [r for i in (1, 2) for r in run.tracker.of(i, role)]
    assert [r["loss/kl"] for r in records] == pytest.approx(kl, rel=1e-6)
    # To M0: what iteration 2 begins with is away from it already.
    assert kl[0] == pytest.approx(0.0, abs=1e-9) and kl[STEPS] > 1e-4


def test_each_role_has_weights_and_moments_of_its_own(run):
    states = [
        checkpoint.restore(
            run.folder.checkpoints(2, role),
            run.trainer.updater(role).states.abstract(),
        )[0]
        for role in ("challenger", "solver")
    ]
    for field in ("params", "opt_state"):
        one, two = (jax.tree.leaves(getattr(state, field)) for state in states)
        assert any((a != b).any() for a, b in zip(one, two, strict=True))
    for role, state in zip(("challenger", "solver"), states, strict=True):
        exported = run.exported[run.folder.export(2, role)]
        last = [jax.tree.leaves(params)[-1] for params in (exported, state.params)]
        np.testing.assert_array_equal(*last)


def flip(folder):
    """One bit of the largest file: other weights, if nobody looked."""
    file = max(folder.rglob("d/*"), key=lambda file: file.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 8
    file.write_bytes(data)


def final(run, iteration):
    """The last state of the Solver, the run's records and what was exported."""
    states = run.trainer.updater("solver").states
    folder = run.folder.checkpoints(iteration, "solver")
    state, _, step = checkpoint.restore(folder, states.abstract())
    records = [comparable(record) for record in run.tracker.records]
    exported = run.exported[run.folder.export(iteration, "solver")]
    return step, records, jax.tree.leaves((state, exported))


def assert_same(one, two):
    assert one[:2] == two[:2]
    for a, b in zip(one[2], two[2], strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_stage_goes_on_from_the_newest_whole_checkpoint(run, caplog):
    """Here that is the end of iteration 1: same numbers, and what is lost is said."""
    before = final(run, 2)
    flip(run.folder.checkpoints(2, "solver") / "4")
    train(run.parts, 2, TrainingStage("solver", lambda step: [None], play))
    assert_same(final(run, 2), before)
    said = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "not what was written" in said[0] and "solver/4/" in said[0]
    assert "iteration 2 solver: steps 3 to 4 are made again" in said
    assert {p.name for p in run.folder.checkpoints(2, "solver").iterdir()} == {"4"}


def test_a_finished_stage_whose_checkpoint_is_needed_is_made_again(run):
    before, later = final(run, 1), final(run, 2)
    folder = run.folder.checkpoints(1, "solver")
    flip(folder / "2")
    for needs in (
        lambda: run.trainer.use_trained(1, "solver"),
        lambda: (
            shutil.rmtree(run.folder.checkpoints(2, "solver"))
            or run.trainer.begin(2, "solver")
        ),
    ):
        with pytest.raises(LostArtefactError, match="not what was written") as caught:
            needs()
        assert caught.value.stage == "iter_1/solver"
    # What the pipeline then does.
    train(run.parts, 1, TrainingStage("solver", lambda step: [None], play))
    assert_same(final(run, 1), before)
    train(run.parts, 2, TrainingStage("solver", lambda step: [None], play))
    assert_same(final(run, 2), later)


def test_a_policy_of_no_steps_stays_the_base_model(
    tiny_config, tiny_params, tmp_path, monkeypatch
):
    made = Run(tmp_path / "run", tiny_config, tiny_params, monkeypatch, challenger=0)
    for iteration in (1, 2):
        train_challenger(made.parts, iteration)
        assert made.folder.stage(f"iter_{iteration}/challenger")["trained"] is False
        assert made.folder.done(f"iter_{iteration}/challenger")
        made.trainer.use_trained(iteration, "challenger")  # as task creation does
        for one, other in zip(
            *map(jax.tree.leaves, (made.trainer.engine.params, tiny_params)),
            strict=True,
        ):
            np.testing.assert_array_equal(one, other)
    assert made.tracker.of(1, "challenger") == []


def test_a_stop_between_checkpoints_saves_the_steps_that_are_done(
    run, tiny_config, tiny_params, tmp_path, monkeypatch
):
    """No checkpoint is due but the last; then the whole run has the same weights."""
    asked = []

    async def stopped_once(prompt, seed):
        asked.append(step := seed[3])
        if step == STEPS and asked.count(step) == 1:
            raise Stopped("stopped by SIGINT", 130)
        return await play(prompt, seed)

    rank = run.rank
    made = Run(tmp_path / "run", tiny_config, tiny_params, monkeypatch, rank=rank)
    never = CheckpointConfig(every=0, permanent_every=0)
    made.parts.world.config = replace(made.parts.world.config, checkpoint=never)
    stage = TrainingStage("solver", lambda step: [None], stopped_once)
    with pytest.raises(Stopped):
        train(made.parts, 1, stage)
    assert checkpoint.latest(made.folder.checkpoints(1, "solver")) == STEPS - 1
    train(made.parts, 1, stage)
    assert checkpoint.latest(made.folder.checkpoints(1, "solver")) == STEPS
    export = made.folder.export(1, "solver")
    whole = run.exported[run.folder.export(1, "solver")]
    for one, other in zip(
        *map(jax.tree.leaves, (made.exported[export], whole)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
