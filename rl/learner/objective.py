"""What an update minimises, for one micro-batch, and sums for its metrics."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from models import forward, lora
from models.attention import Backend
from models.branches import Branches
from models.config import DecoderConfig
from models.forward import Params
from models.lora import LoraConfig
from rl.learner import agreement, losses, policies
from rl.learner.config import UpdateConfig
from rl.learner.logprobs import token_logprobs
from rl.learner.losses import LossConfig


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The loss of one micro-batch: static values; hashable.

    Attributes:
      config: the decoder.
      loss: the loss.
      update: arithmetic of the forward pass.
      mesh: what constraints on activations refer to.
      compute_dtype: dtype of the forward pass, whatever the parameters are stored in.
      attention: the backend that was chosen.
      valid_vocab: number of ids that the tokenizer has.
      lora: what of the model is trained; None: all of it.
    """

    config: DecoderConfig
    loss: LossConfig
    update: UpdateConfig
    mesh: Mesh
    compute_dtype: Any
    attention: Backend
    valid_vocab: int | None
    lora: LoraConfig | None = None

    def whole(self, params: Params, base: Params) -> Params:
        """The policy's parameters: ``params``, or ``base`` with them as its adapter."""
        if self.lora is None:
            return params
        return lora.attach(base, lora.scaled(params, self.lora))

    def logprobs(self, params: Params, micro: dict[str, Array]) -> tuple[Array, Array]:
        """Returns (log-prob, entropy) [R, T] of the targets under ``params``.

        Both are 0 where a token is neither sampled nor in the loss.
        """
        compute = jax.tree.map(lambda x: x.astype(self.compute_dtype), params)
        # Whole along D, or the lookup's output would be sharded by D and not by rows.
        compute["embed"] = self._constrain(compute["embed"], "tensor", None)
        borders = {"segment_ids": micro["segment_ids"]}
        if self.update.share_history:
            places = (micro[name] for name in ("parents", "cuts", "positions"))
            borders["branches"] = Branches(*places)
        if self.attention == "cudnn":  # then a row holds one datum
            lengths = jnp.sum(micro["segment_ids"] > 0, axis=1)
            # An empty row, too: nothing says what cuDNN makes of none, and a NaN
            # would reach the weights although no loss is taken there.
            borders = {"lengths": jnp.maximum(lengths, 1)}
        hidden = forward.hidden(
            compute,
            self.config,
            micro["tokens"],
            positions=micro["positions"],
            remat=self.update.remat,
            attention=self.attention,
            **borders,
        )
        return token_logprobs(
            params,
            self.config,
            self._constrain(hidden, ("data", "fsdp")),
            micro["targets"],
            (micro["loss_mask"] | micro["sampled_mask"]) != 0,
            chunk=self.update.logit_chunk,
            temperature=self.update.temperature,
            valid_vocab=self.valid_vocab,
            frozen=self.lora is not None,
            entropy_gradient=bool(self.loss.entropy_coefficient),
        )

    def _constrain(self, x: Array, *spec: Any) -> Array:
        for axis, size in zip(spec, x.shape, strict=False):
            if axis == "tensor" and size % self.mesh.shape["tensor"]:
                return x
        named = NamedSharding(self.mesh, PartitionSpec(*spec))
        return jax.lax.with_sharding_constraint(x, named)

    def value(
        self,
        params: Params,
        reference_params: Params,
        micro: dict[str, Array],
        use_old: Array,
    ) -> tuple[Array, dict[str, Array]]:
        """Returns the micro-batch's share of the loss, and sums for the metrics.

        Args:
          params: differentiated.
          reference_params: the base model. It is the reference of a penalty, and the
            frozen part of a policy that is an adapter; else it is not used.
          micro: [R, T] arrays of ``packing.PackedBatch``, and ``old_logprobs``.
          use_old: false takes the log-probs of this forward pass as the old ones.
        """
        mask, weights = micro["loss_mask"], micro["weights"]
        logprobs, entropy = self.logprobs(self.whole(params, reference_params), micro)
        before = jax.lax.stop_gradient(logprobs)
        before = jnp.where(use_old, micro["old_logprobs"], before)
        if "stored_mask" in micro:
            stored = micro["stored_mask"] != 0
            before = jnp.where(stored, micro["stored_logprobs"], before)
        each, clipped, dual = policies.policy_term(logprobs, before, micro, self.loss)
        if self.loss.importance_cap:
            each *= losses.importance_weights(
                before,
                micro["sampler_logprobs"],
                micro["sampled_mask"],
                cap=self.loss.importance_cap,
            )
        policy = jnp.sum(each * weights)
        total, kl = policy, jnp.zeros_like(logprobs)
        if self.loss.kl_coefficient:
            reference, _ = self.logprobs(reference_params, micro)
            reference = jax.lax.stop_gradient(reference)
            kl = losses.kl_penalty(logprobs, reference, kind=self.loss.kl_kind)
            kl = jnp.where(mask != 0, kl, 0.0)
            total = policy + self.loss.kl_coefficient * jnp.sum(kl * weights)
        if self.loss.entropy_coefficient:
            total -= self.loss.entropy_coefficient * jnp.sum(entropy * weights)
        sums = {
            "policy": policy,
            "tokens": jnp.sum(mask, dtype=jnp.float32),
            "kl": jnp.sum(kl),
            "entropy": jnp.sum(entropy * mask),
            "clipped": jnp.sum(clipped),
            "dual": jnp.sum(dual),
        }
        if self.loss.likelihood:
            own = -jnp.sum(
                jnp.where(mask != 0, logprobs, 0) * micro["likelihood_weights"]
            )
            total += self.loss.likelihood * own
            sums["likelihood"] = own
        if self.loss.distillation:
            has = (micro["teacher_weights"] != 0).astype(jnp.float32)
            away = jnp.where(has != 0, before - micro["teacher_logprobs"], 0.0)
            sums |= {"teacher_kl": jnp.sum(away), "teacher_tokens": jnp.sum(has)}
        sums["total"] = total
        sums |= agreement.token_sums(
            before, micro["sampler_logprobs"], micro["sampled_mask"]
        )
        return total, jax.lax.stop_gradient(sums)


def metrics(sums: Mapping[str, Any], loss: LossConfig) -> dict[str, float]:
    """Returns metrics from the sums over one optimizer batch."""
    tokens = max(float(sums["tokens"]), 1.0)
    out = {
        "loss/total": float(sums["total"]),
        "loss/policy": float(sums["policy"]),
        "loss/entropy": float(sums["entropy"]) / tokens,
        "loss/clip_fraction": float(sums["clipped"]) / tokens,
        "loss/dual_clip_fraction": float(sums["dual"]) / tokens,
        "loss/tokens": float(sums["tokens"]),
    }
    if loss.kl_coefficient:
        out["loss/kl"] = float(sums["kl"]) / tokens
    if loss.likelihood:
        out["loss/likelihood"] = float(sums["likelihood"])
    if loss.distillation:
        taught = max(float(sums["teacher_tokens"]), 1.0)
        out["loss/teacher_kl"] = float(sums["teacher_kl"]) / taught
    if "grad_norm" in sums:
        out["loss/grad_norm"] = float(sums["grad_norm"])
        out["loss/skipped"] = float(sums["skipped"])
    return out | agreement.summarize(sums)
