"""The optimizer update as one ``jax.jit`` with ``NamedSharding`` over a mesh.

Micro-batches are accumulated inside the program by a loop whose trip count is data, so
batches of different sizes share it. Token weights are fixed on the host over the whole
optimizer batch, so the gradient doesn't depend on how datums are packed into rows or
rows are cut into micro-batches.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from models import precision, sharding
from models.attention import Need, choose_backend
from models.config import DecoderConfig
from models.errors import UserError
from models.forward import Params
from models.lora import LoraConfig
from rl.learner import objective, optimizer, packing
from rl.learner.config import UpdateConfig
from rl.learner.losses import LossConfig
from rl.learner.optimizer import OptimizerConfig
from rl.learner.train_state import States, TrainState, abstract
from rl.records import Datum


class NonFiniteUpdateError(ArithmeticError):
    """Training can't go on: gradients, or the parameters themselves, are not finite.

    Attributes:
      datums: the batch of the last update.
    """

    def __init__(self, why: str, datums: Sequence[Datum]):
        super().__init__(why)
        self.datums = tuple(datums)


class Updater:
    """The compiled update of one model on one mesh.

    Args:
      config: the decoder.
      loss: the loss.
      optimizer_config: the optimizer.
      update: shapes and arithmetic.
      mesh: from ``models.sharding.make_mesh``.
      valid_vocab: number of ids that the tokenizer has; ids beyond it have no
        probability, as in the sampler.
      lora: train an adapter of the base model; None: all parameters.
      base: the base model's parameters as they are in memory, or their shapes: sharded
        over the mesh, or from ``unstack``. None: sharded, in the compute dtype.

    Attributes:
      states: makes, moves and copies the states that it updates.
      programs: compiled executables by (name, capacity in micro-batches).
      attention: the backend that was chosen.
      compute_dtype: of the forward pass.
      skipped_in_a_row: how many updates before the next one were skipped; whoever goes
        on from a checkpoint sets it.

    Raises:
      UserError: if the rows of a micro-batch can't be spread over the mesh, or the
        devices have no host memory to offload the optimizer to.
    """

    def __init__(
        self,
        config: DecoderConfig,
        loss: LossConfig,
        optimizer_config: OptimizerConfig,
        update: UpdateConfig,
        mesh: Mesh,
        *,
        valid_vocab: int | None = None,
        lora: LoraConfig | None = None,
        base: Params | None = None,
    ):
        shards = sharding.row_shards(mesh)
        if update.rows % shards:
            raise UserError(
                f"update.rows={update.rows}: micro-batches are spread over {shards} "
                f"devices (data x fsdp): make it a multiple of {shards}"
            )
        platform = mesh.devices.flat[0].platform
        self.compute_dtype = precision.resolved(update.compute_dtype, platform)
        self.attention = choose_backend(
            update.attention,
            needs=_needs(update),
            head_dim=config.head_dim,
            dtype=self.compute_dtype,
            platform=platform,
        )
        self.loss, self.update_config = loss, update
        self.optimizer_config = optimizer_config
        self.objective = objective.Objective(
            config=config,
            loss=loss,
            update=update,
            mesh=mesh,
            compute_dtype=self.compute_dtype,
            attention=self.attention,
            valid_vocab=valid_vocab,
            lora=lora,
        )
        self.states = States(
            config,
            mesh,
            self.compute_dtype,
            offload=update.offload_optimizer,
            lora=lora,
        )
        self._base = abstract(base) if base else self.states.abstract_base()
        self._batch_sharding = sharding.batch_sharding(mesh, leading=1)
        self._whole = sharding.replicated(mesh)
        self._jits = {
            "update": jax.jit(
                self._update_fn,
                donate_argnums=0,
                out_shardings=(self.states.shardings, self._whole),
            ),
            "logprobs": jax.jit(self._logprobs_fn, out_shardings=self._batch_sharding),
        }
        self.programs: dict[tuple[str, int], Any] = {}
        self.skipped_in_a_row = 0

    # ----------------------------------------------------------------- update

    def pack(self, datums: Sequence[Datum]) -> packing.PackedBatch:
        """Returns ``datums`` packed into this updater's shapes."""
        c = self.objective.config
        pairs = 2 * c.num_layers * c.num_heads * c.head_dim
        return packing.pack(
            datums,
            rows=self.update_config.rows,
            length=self.update_config.length,
            capacity=self.update_config.capacity,
            loss=self.loss,
            full_batch=self.update_config.mini_batch_rows,
            logit_cost=c.hidden_size * c.vocab_size / pairs,
            one_per_row=self.attention == "cudnn",
            share_history=self.update_config.share_history,
        )

    def update(
        self, state: TrainState, reference_params: Params, datums: Sequence[Datum]
    ) -> tuple[TrainState, dict[str, float]]:
        """Does the updates of one step, one per mini-batch; returns state and metrics.

        With one mini-batch, the log-probs before the update are those of its own
        forward pass; with several, a pass over all of them comes first. ``state`` is
        donated: use the one returned.

        Raises:
          NonFiniteUpdateError: the last ``max_skipped`` updates were all skipped, or
            the parameters are no longer finite.
        """
        ordered = sorted(datums, key=packing.datum_order)
        size = self.update_config.mini_batch_rows or max(len(ordered), 1)
        cuts = range(0, len(ordered), size)
        batches = [self.pack(ordered[start : start + size]) for start in cuts]
        dropped = float(sum(len(b.dropped) for b in batches))
        batches = [b for b in batches if b.num_micro]
        counts = {"loss/updates": float(len(batches)), "loss/dropped_rows": dropped}
        if not batches:
            return state, counts
        old: list[Array | None] = [None] * len(batches)
        if len(batches) > 1:
            old = [
                self.logprobs(state.params, batch, reference_params)
                for batch in batches
            ]
        state = self.states.unpark(state)
        every = []
        for batch, old_logprobs in zip(batches, old, strict=True):
            state, metrics = self.update_mini_batch(
                state, reference_params, batch, old_logprobs=old_logprobs
            )
            every.append(metrics)
            skipped = self.skipped_in_a_row + 1 if metrics["loss/skipped"] else 0
            self.skipped_in_a_row = skipped
            if skipped >= self.update_config.max_skipped:
                why = f"{skipped} gradients in a row were not finite"
                raise NonFiniteUpdateError(why, datums)
            if metrics.get("loss/broken"):
                why = "an update made parameters that are not finite"
                raise NonFiniteUpdateError(why, datums)
        metrics = {k: float(np.mean([m[k] for m in every])) for k in every[0]}
        for total in ("loss/skipped", "loss/tokens", "perf/update_micro_batches"):
            metrics[total] = sum(m[total] for m in every)
        metrics["agree/max"] = max(m["agree/max"] for m in every)
        return state, metrics | counts

    def update_mini_batch(
        self,
        state: TrainState,
        reference_params: Params,
        batch: packing.PackedBatch,
        *,
        old_logprobs: Array | None = None,
    ) -> tuple[TrainState, dict[str, float]]:
        """Does one optimizer update; returns the new state and its metrics.

        Only where parameters came out that are not finite, there is ``loss/broken``.

        Args:
          state: donated.
          reference_params: the frozen base model, on the mesh: the reference, and what
            an adapter is an adapter of.
          batch: from ``pack``.
          old_logprobs: [M, R, T] from ``logprobs``; None takes the update's own.
        """
        state, sums = self._run(
            "update", state, reference_params, self._to_device(batch, old_logprobs)
        )
        sums = jax.device_get(sums)
        metrics = objective.metrics(sums, self.loss)
        if sums["broken"]:
            metrics["loss/broken"] = 1.0
        metrics["perf/update_micro_batches"] = float(batch.num_micro)
        metrics["perf/update_fill"] = batch.fill
        return state, metrics

    def logprobs(
        self, params: Params, batch: packing.PackedBatch, base: Params | None = None
    ) -> Array:
        """Returns [M, R, T] log-probs of the targets under ``params``; 0 if unused.

        Args:
          base: the base model, where ``params`` are an adapter of it.
        """
        base = {} if self.objective.lora is None else base
        return self._run("logprobs", params, base, self._to_device(batch, None))

    # --------------------------------------------------------------- programs

    def compile(self) -> None:
        """Compiles ahead of the run what ``update`` needs at the usual capacity."""
        for name, (_, arguments) in self.jitted().items():
            self._program(name, *arguments)

    def jitted(self) -> dict[str, tuple[Any, tuple[Any, ...]]]:
        """What ``update`` runs, jitted, with arguments of the usual capacity."""
        state = self.states.abstract()
        batch = self._to_device(self.pack([]), None)
        arguments = {"update": (state, self._base, batch)}
        if self.update_config.mini_batch_rows:
            base = {} if self.objective.lora is None else self._base
            arguments["logprobs"] = (state.params, base, batch)
        return {name: (self._jits[name], given) for name, given in arguments.items()}

    def _program(self, name: str, *args: Any) -> Any:
        """The executable for a batch of this capacity, compiled once."""
        key = (name, args[-1]["tokens"].shape[0])
        if "stored_mask" in args[-1]:  # rollouts of an earlier step among them
            key = (f"{name} stored", key[1])
        if key not in self.programs:
            self.programs[key] = self._jits[name].lower(*args).compile()
        return self.programs[key]

    def _run(self, name: str, *args: Any) -> Any:
        return self._program(name, *args)(*args)

    def _to_device(
        self, batch: packing.PackedBatch, old_logprobs: Array | None
    ) -> dict[str, Array]:
        arrays = sharding.place(batch.arrays, self._batch_sharding)
        own = old_logprobs is None
        arrays["old_logprobs"] = arrays["sampler_logprobs"] if own else old_logprobs
        scalars = {"num_micro": np.int32(batch.num_micro), "use_old": np.bool_(not own)}
        return arrays | sharding.place(scalars, self._whole)

    def _accumulate(
        self, params: Params, reference_params: Params, batch: dict[str, Array]
    ) -> tuple[Params, dict[str, Array]]:
        """Gradient and metric sums over the micro-batches in use."""
        batch = dict(batch)
        num_micro, use_old = batch.pop("num_micro"), batch.pop("use_old")
        sharded = self.states.shardings.params

        def one(i: Array) -> tuple[Params, dict[str, Array]]:
            micro = jax.tree.map(lambda x: x[i], batch)
            grads, sums = jax.grad(self.objective.value, has_aux=True)(
                params, reference_params, micro, use_old
            )
            return jax.lax.with_sharding_constraint(grads, sharded), sums

        def body(i: Array, carry: tuple[Params, dict[str, Array]]):
            grads, sums = one(i)
            total = {
                k: jnp.maximum(v, sums[k]) if k.endswith("_max") else v + sums[k]
                for k, v in carry[1].items()
            }
            return jax.tree.map(jnp.add, carry[0], grads), total

        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, jnp.int32(0))
        )
        return jax.lax.fori_loop(0, num_micro, body, zeros)

    def _update_fn(
        self, state: TrainState, reference_params: Params, batch: dict[str, Array]
    ) -> tuple[TrainState, dict[str, Array]]:
        grads, sums = self._accumulate(state.params, reference_params, batch)
        with jax.named_scope("optimizer"):
            params, opt_state, norm, finite = optimizer.apply(
                self.optimizer_config, grads, state.opt_state, state.params
            )
        skipped = 1 - finite.astype(jnp.int32)
        new_state = TrainState(
            params=params,
            opt_state=opt_state,
            step=state.step + 1,
            skipped=state.skipped + skipped,
        )
        # Behind a barrier, so that looking changes nothing of what is looked at.
        made = jax.lax.optimization_barrier(params)
        whole = jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(made)]).all()
        sums |= {"grad_norm": norm, "skipped": skipped, "broken": finite & ~whole}
        return new_state, sums

    def _logprobs_fn(
        self, params: Params, base: Params, batch: dict[str, Array]
    ) -> Array:
        batch, params = dict(batch), self.objective.whole(params, base)
        num_micro, _ = batch.pop("num_micro"), batch.pop("use_old")

        def body(i: Array, out: Array) -> Array:
            micro = jax.tree.map(lambda x: x[i], batch)
            return out.at[i].set(self.objective.logprobs(params, micro)[0])

        out = jnp.zeros(batch["tokens"].shape, jnp.float32)
        return jax.lax.fori_loop(0, num_micro, body, out)


def _needs(update: UpdateConfig) -> list[Need]:
    """What the update's rows ask of attention."""
    if update.attention == "cudnn" and not update.share_history:
        return ["lengths"]
    return ["segments", *(["branches"] if update.share_history else [])]
