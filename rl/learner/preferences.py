"""Losses of pairs of sequences, a better and a worse one, and the update on them.

Such a loss needs of the policy only u: the log-ratio to a reference, summed over a
sequence's tokens. Its gradient, dl/du_w grad log pi(w) + dl/du_l grad log pi(l), is
that of the policy loss at ratio 1 with advantages -dl/du. So there are two passes: the
log-probs of all sequences, from which u and dl/du follow in float64 on the host, and
the update that there is. The members of a pair may be packed into any rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float

from models.forward import Params
from models.ranges import POSITIVE, check_fields
from rl.learner.losses import LossConfig
from rl.learner.train_state import TrainState
from rl.learner.update import Updater
from rl.records import Datum

SUM = LossConfig(kl_coefficient=0.0, aggregation="constant_length", constant_length=1)
"""What the updater's loss must be: the sum over a datum's tokens, averaged over data.
"""

Pairs = Float[np.ndarray, "pairs 2"]
"""A number of each pair's better sequence, and of its worse one."""


@dataclass(frozen=True, kw_only=True)
class PairLossConfig:
    """The loss of a pair of sequences."""

    kind: Literal["dpo", "ipo", "spin", "sppo"] = "dpo"
    """dpo: logistic in the difference of the log-ratios; spin: a hinge in it, SPIN's
    other loss (its first one is dpo's); ipo: the difference has a goal; sppo: each of
    the two log-ratios has one."""
    beta: Annotated[float, POSITIVE] = 0.01
    """Strength of the tie to the reference. POP has 0.01 with dpo; SPIN has 0.1, and
    SPPO 0.001."""

    def __post_init__(self):
        check_fields(self)


def pair_losses(u: Pairs, config: PairLossConfig) -> tuple[np.ndarray, Pairs]:
    """Returns each pair's loss [pairs], and its derivatives by both log-ratios.

    Args:
      u: log pi(y) - log ref(y) of the better sequence w and of the worse one l, summed
        over tokens; float64.
      config: which loss.

    Formula:
      [DPO] -log sigmoid(beta (u_w - u_l)), u = log pi - log ref summed over the tokens
      [IPO] (u_w - u_l - 1 / (2 beta))^2
      [SPIN] max(0, 1 - beta (u_w - u_l))
      [SPPO] (u_w - 1 / (2 beta))^2 + (u_l + 1 / (2 beta))^2

    References:
      [DPO] Rafailov et al., DPO (arXiv 2305.18290); its pairs: POP (arXiv 2604.20051)
      [IPO] Azar et al., IPO (arXiv 2310.12036)
      [SPIN] Chen et al., SPIN (arXiv 2401.01335), the hinge of its published code
      [SPPO] Wu et al., SPPO (arXiv 2405.00675), hard targets
    """
    u, beta = np.asarray(u, np.float64), config.beta
    goal, signs = 1 / (2 * beta), np.array([1.0, -1.0])
    difference = u @ signs
    if config.kind == "sppo":
        away = u - goal * signs
        return np.sum(away**2, axis=-1), 2 * away
    if config.kind == "ipo":
        losses, slope = (difference - goal) ** 2, 2 * (difference - goal)
    elif config.kind == "spin":
        losses = np.maximum(0.0, 1 - beta * difference)
        slope = -beta * (losses > 0)
    else:  # log(1 + exp(-x)), without an overflow
        losses = np.logaddexp(0.0, -beta * difference)
        slope = -beta * np.exp(-np.logaddexp(0.0, beta * difference))
    return losses, slope[:, None] * signs


Member = tuple[Datum, ...]
"""A sequence: one datum, or one per turn."""


def log_probs(
    updater: Updater,
    params: Params,
    pairs: Sequence[tuple[Member, Member]],
    base: Params,
) -> Pairs:
    """Returns the log-prob of each sequence: the sum over its tokens in the loss.

    Args:
      updater: packs and computes.
      params: of the policy.
      pairs: of a better and a worse sequence.
      base: the base model, where ``params`` are an adapter of it.
    """
    members = [member for pair in pairs for member in pair]
    # Its number, in the place of an advantage: so each token knows its sequence.
    batch = updater.pack(
        [replace(d, advantage=float(i)) for i, own in enumerate(members) for d in own]
    )
    found = np.asarray(updater.logprobs(params, batch, base), np.float64)
    inside = batch.arrays["loss_mask"] != 0
    numbers = batch.arrays["advantages"][inside].astype(np.int64)
    sums = np.bincount(numbers, weights=found[inside], minlength=len(members))
    return sums.reshape(-1, 2)


def update(
    updater: Updater,
    state: TrainState,
    base: Params,
    pairs: Sequence[tuple[Member, Member]],
    reference: Pairs,
    config: PairLossConfig,
) -> tuple[TrainState, dict[str, float]]:
    """Does one update on the mean loss of ``pairs``; returns state and metrics.

    Args:
      updater: with the loss ``SUM`` and one update a step.
      state: donated.
      base: the base model's parameters.
      pairs: as for ``log_probs``.
      reference: from ``log_probs`` of the reference.
      config: the loss.

    Raises:
      NonFiniteUpdateError: as ``Updater.update``.
    """
    u = log_probs(updater, state.params, pairs, base) - reference
    losses, slopes = pair_losses(u, config)
    count = sum(len(member) for pair in pairs for member in pair)
    # The updater's loss is a mean over data, and that of pairs one over pairs.
    advantages = -slopes * count / len(pairs)
    state, metrics = updater.update(
        state,
        base,
        [
            replace(datum, advantage=float(advantage))
            for pair, both in zip(pairs, advantages, strict=True)
            for member, advantage in zip(pair, both, strict=True)
            for datum in member
        ],
    )
    kept = ("grad_norm", "tokens", "skipped", "updates", "entropy")
    shown = {k: v for k, v in metrics.items() if k.startswith("perf/")}
    shown |= {f"loss/{name}": metrics[f"loss/{name}"] for name in kept}
    margins = u[:, 0] - u[:, 1]
    return state, shown | {
        "loss/total": float(losses.mean()),
        "preference/accuracy": float((margins > 0).mean()),
        "preference/margin": float(margins.mean()),
        "preference/better": float(u[:, 0].mean()),
        "preference/worse": float(u[:, 1].mean()),
    }
