"""What an update changes and needs: states, programs, reference, checkpoints."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from models import forward, hf, lora
from models.config import DecoderConfig
from models.errors import DamagedError
from models.lora import LoraConfig
from rl import seeds
from rl.engine.sampling import seed64
from rl.learner import checkpoint
from rl.learner.losses import LossConfig
from rl.learner.optimizer import OptimizerConfig, Params
from rl.learner.train_state import TrainState
from rl.learner.update import Updater
from rl.records import Datum
from scope_jax.config import Config, StageConfig, compute_dtype
from scope_jax.run.folder import RunFolder, needed_from
from scope_jax.run.sizes import one_base
from scope_jax.selfplay.base_model import BaseModel
from scope_jax.selfplay.policy_engine import PolicyEngine
from scope_jax.system.heap import return_memory, settle

log = logging.getLogger("scope_jax")

SKIPPED = "skipped updates"
"""In a checkpoint's memory: ``Updater.skipped_in_a_row``, unless it is 0."""


class NoEngine:
    """In the place of a ``PolicyEngine`` where nothing is sampled."""

    def use(self, params: Params | None) -> None:
        """Lets go of them."""

    def check(self, fingerprint: tuple[int, ...]) -> None:
        """Nothing is played, and so nothing that is stale."""


class Trainer:
    """Trains both roles; each has weights, moments and a step count of its own.

    Between updates the policy is on the engine, and during one it is not: the device
    has no room for both.

    Args:
      plays: whether the policy is played; without, no engine is made.

    Attributes:
      engine: plays the policy in training.
      reference: parameters of the base model on the mesh, in the compute dtype; where
        the engine serves all roles, the very ones that it computes with.
      memory: what the stage in training remembers beside its state, by name, as JSON;
        ``begin`` reads it from the checkpoint, ``save`` writes it into the next.
    """

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        base: BaseModel,
        weights: Params,
        *,
        plays: bool = True,
    ):
        self._config, self._folder, self._base = config, folder, base
        # Of checkpoints that are not permanent the newest is kept.
        self._kept = {"keep": 1, "keep_every": config.checkpoint.permanent_every}
        self._updaters: dict[str, Updater] = {}
        self.memory: dict[str, Any] = {}
        self._lora, serves = config.lora.used, one_base(config)
        self.reference = weights
        if not self._lora:
            states = self.updater("solver").states
            self.reference = states.reference_params(weights)
        options = {"lora": self._lora, "serves": serves}
        self.engine: Any = NoEngine()
        if plays:
            self.engine = PolicyEngine(base, self.reference, config.engine, **options)
            if serves:
                self.reference = self.engine.base_params
        updater = self.updater("solver")
        log.info(
            "attention in updates: %s, in %s", updater.attention, updater.compute_dtype
        )
        if self._lora:
            log.info("%s", describe_lora(self._lora, base.decoder))

    def stage_config(self, role: str) -> StageConfig:
        """Settings of a role's training stage."""
        return getattr(self._config, f"{role}_train")

    def updater(self, role: str) -> Updater:
        """The compiled update of a role, made when first asked for."""
        if role not in self._updaters:
            stage = self.stage_config(role)
            dtype = compute_dtype(self._config, stage)
            self._updaters[role] = Updater(
                self._base.decoder,
                loss_of(self._config, stage),
                optimizer_of(self._config, stage),
                replace(stage.update, compute_dtype=dtype),
                self._base.mesh,
                valid_vocab=hf.vocab_rows(self._base.tokenizer),
                lora=self._lora,
                base=self.reference if self._lora else None,
            )
        return self._updaters[role]

    def begin(self, iteration: int, role: str) -> tuple[TrainState, int]:
        """The state that a stage starts or resumes from, and the step it has reached.

        The policy is on the engine, and every program of the update is compiled.
        """
        self.engine.use(None)  # another role's; its memory goes into the new state
        state, step = self._restore(iteration, role)
        self.updater(role).compile()
        state = self._wait(role, state)
        self._check_engine(role, state)  # and so compiled before the first step
        settle()
        return state, step

    def update(
        self, role: str, state: TrainState, datums: Sequence[Datum]
    ) -> tuple[TrainState, dict[str, float]]:
        """One update of ``state``, which is donated; the engine gets the new policy.

        Raises:
          NonFiniteUpdateError: training can't go on.
          StaleWeightsError: the engine has sampled another policy than ``state``.
        """
        self._check_engine(role, state)
        self.engine.use(None)
        return_memory()
        state, metrics = self.updater(role).update(state, self.reference, datums)
        return self._wait(role, state), metrics

    def save(self, iteration: int, role: str, step: int, state: TrainState) -> None:
        """Writes a checkpoint; of those that are not permanent the newest is kept."""
        skipped = self.updater(role).skipped_in_a_row
        memory = self.memory | ({SKIPPED: skipped} if skipped else {})
        checkpoint.save(
            self._folder.checkpoints(iteration, role),
            step,
            state,
            meta={"iteration": iteration, "role": role, "name": self._config.name}
            | ({"memory": memory} if memory else {}),
            **self._kept,
        )

    def finish(self, iteration: int, role: str, state: TrainState) -> None:
        """Ends a stage: the engine is emptied, the policy exported."""
        self.engine.use(None)
        folder = self._folder.export(iteration, role)
        if self._lora:
            self._base.export(folder, state.params, lora=self._lora)
        else:
            params = self.updater(role).states.policy_params(state)
            self._base.export(folder, params)

    def carry_over(self, iteration: int, role: str) -> None:
        """Ends a stage that has nothing to train on: its policy stays as it was."""
        self.engine.use(None)
        state, _ = self._restore(iteration, role)
        self.save(iteration, role, iteration * self.stage_config(role).steps, state)
        self.finish(iteration, role, state)

    def use_trained(self, iteration: int, role: str) -> None:
        """Puts the policy that a stage has trained on the engine.

        Raises:
          LostArtefactError: its checkpoint is not whole.
        """
        state, _ = self._end_of(iteration, role)
        self.engine.use(self.updater(role).states.policy_params(state))

    def use_folder(self, path: str) -> None:
        """Puts the weights of a Hugging Face folder on the engine, as the policy."""
        if self._lora:
            self.engine.use_folder(path)
            return
        dtype = str(self.updater("solver").compute_dtype)
        self.engine.use(self._base.load(path, dtype=dtype))

    def _restore(self, iteration: int, role: str) -> tuple[TrainState, int]:
        """A stage's state and step, and ``memory``, as it stopped or begins."""
        state, step, memory = self._found(iteration, role)
        self.memory = dict(memory)
        self.updater(role).skipped_in_a_row = self.memory.pop(SKIPPED, 0)
        return state, step

    def _found(
        self, iteration: int, role: str
    ) -> tuple[TrainState, int, dict[str, Any]]:
        """From the stage's last checkpoint, the iteration before, or the base model.

        Returns (state, step, memory).
        """
        states = self.updater(role).states
        own = self._folder.checkpoints(iteration, role)
        name = f"iteration {iteration} {role}"

        def say(error: DamagedError) -> None:
            log.warning("%s: %s: set aside as STEP.damaged", error.file, error.why)

        def find() -> tuple[int | None, int | None]:
            last = checkpoint.latest(own)
            step = checkpoint.newest_whole(own, say)
            checkpoint.remove_old(own, **self._kept)
            return step, last

        # Asked once: a shared disk may show it to one process before another.
        step, last = self._base.hosts.from_leader(find)
        first = (iteration - 1) * self.stage_config(role).steps
        if last is not None and step != last:
            back = first if step is None else step
            log.warning("%s: steps %d to %d are made again", name, back + 1, last)
        if step is not None:
            state, meta, _ = checkpoint.restore(
                own, states.abstract(), step=step, verified=True
            )
            log.info("%s: resumes from step %d", name, step)
            return state, step, meta.get("memory", {})
        if iteration == 1:
            return states.init(self.first_weights(role)), 0, {}
        state, memory = self._end_of(iteration - 1, role)
        return state, first, memory

    def first_weights(self, role: str) -> Params:
        """What a role's training starts from."""
        if not self._lora:
            return self._base.load()
        key = seeds.key(seed64(self._config.seed, role, "lora"))
        return lora.init(self._base.decoder, self._lora, key)

    def _end_of(self, iteration: int, role: str) -> tuple[TrainState, dict[str, Any]]:
        """The state that a stage has ended with, and its memory.

        Raises:
          LostArtefactError: its checkpoint is not whole.
        """
        folder = self._folder.checkpoints(iteration, role)
        step = iteration * self.stage_config(role).steps

        def verify() -> None:
            with needed_from(f"iter_{iteration}/{role}"):
                if step not in checkpoint.steps(folder):
                    raise DamagedError(folder / str(step), "no such checkpoint")
                checkpoint.verify(folder, step)

        self._base.hosts.from_leader(verify)
        abstract = self.updater(role).states.abstract()
        state, meta, _ = checkpoint.restore(folder, abstract, step=step, verified=True)
        return state, meta.get("memory", {})

    def _check_engine(self, role: str, state: TrainState) -> None:
        """Makes sure that the policy of ``state`` is what the engine plays."""
        self.engine.check(self.updater(role).states.fingerprint(state))

    def _wait(self, role: str, state: TrainState) -> TrainState:
        """The state as it waits for its next update; its policy is on the engine."""
        states = self.updater(role).states
        state = states.park(state)
        self.engine.use(states.policy_params(state))
        return state


def optimizer_of(config: Config, stage: StageConfig) -> OptimizerConfig:
    """The stage's optimizer; adapters have a larger learning rate."""
    if not config.lora.used:
        return stage.optimizer
    rate = stage.optimizer.learning_rate * config.lora.learning_rate_factor
    return replace(stage.optimizer, learning_rate=rate)


def describe_lora(settings: LoraConfig, decoder: DecoderConfig) -> str:
    """One line for the log."""
    share = lora.size(decoder, settings) / forward.size(decoder)
    return (
        f"adapters of rank {settings.rank}, alpha {settings.alpha:g}, on "
        f"{', '.join(settings.targets)}: {share:.2%} of the weights are trained"
    )


def loss_of(config: Config, stage: StageConfig) -> LossConfig:
    """The stage's loss; the reference averages per micro-batch (spec Q20)."""
    if config.compat.micro_batch_mean:
        return replace(stage.loss, aggregation="micro_batch_mean")
    return stage.loss
