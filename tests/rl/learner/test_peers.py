"""Losses and advantages against TRL's and verl's own functions, on stored batches.

``oracles/peer_losses.py`` ran them. Where the two differ: verl's CISPO clips the ratio
on both sides, TRL's only above, and at ``epsilon_high`` itself, not 1 more; verl's
dual clip (ours too) is TRL's ``delta``, which is off by default; and verl's SAPO is a
mean over sequences whatever aggregation it is given, TRL's too.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.learner import losses, policies
from rl.learner.advantages import group_advantages, leave_one_out_advantages
from rl.learner.losses import LossConfig

pytestmark = pytest.mark.usefixtures("compiled_quickly")

FOUND = json.loads(
    (Path(__file__).parent / "oracles" / "peer_losses.json").read_text(encoding="utf-8")
)
CONFIGS = {
    "gspo": LossConfig(ratio="sequence"),
    "gspo_tokens": LossConfig(ratio="sequence", aggregation="token_mean"),
    "dr_grpo": LossConfig(
        aggregation="constant_length", constant_length=FOUND["max_length"]
    ),
    "dapo": LossConfig(clip_high=0.28),
    "sapo": LossConfig(policy="sapo", aggregation="row_mean"),
    "cispo": LossConfig(policy="cispo", clip_high=0.28),
    "cispo_above": LossConfig(policy="cispo", clip_low=1.0, clip_high=0.28),
}
GROUPS = [0, 0, 0, 1, 1, 1]

batches = pytest.mark.parametrize("batch", FOUND["batches"], ids=["0", "1"])


def ours(batch, config):
    """Loss and its gradient; all rollouts of the batch lie in one row."""
    lengths = batch["lengths"]
    inside = np.arange(FOUND["max_length"]) < np.array(lengths)[:, None]
    new, old = (np.float32(batch[k])[inside][None] for k in ("new", "old"))
    weights = losses.token_weights(lengths, config)
    spread = {
        "advantages": np.float32(batch["advantages"]["group"]),
        "segment_ids": np.arange(1, 7),
        "weights": np.float32(weights),
    }
    micro = {k: jnp.asarray(np.repeat(v, lengths)[None]) for k, v in spread.items()}
    micro["loss_mask"] = jnp.ones_like(micro["segment_ids"])

    def loss(x):
        each, *_ = policies.policy_term(x, jnp.asarray(old), micro, config)
        return jnp.sum(each * micro["weights"])

    value, grad = jax.value_and_grad(loss)(jnp.asarray(new))
    out = np.zeros(inside.shape)
    out[inside] = grad[0]
    return float(value), out


@batches
@pytest.mark.parametrize("name", CONFIGS)
def test_losses_and_gradients_are_those_of_trl_and_verl(name, batch):
    value, gradient = ours(batch, CONFIGS[name])
    found = batch["losses"][name]
    peers = [found[peer] for peer in ("trl", "verl") if peer in found]
    assert peers
    for peer in peers:
        assert value == pytest.approx(peer["loss"], abs=1e-6)
        np.testing.assert_allclose(gradient, peer["gradient"], atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_no_two_of_the_losses_are_the_same(name):
    """Or agreeing with one of them would mean little."""
    batch = FOUND["batches"][1]
    value, _ = ours(batch, CONFIGS[name])
    for other, found in batch["losses"].items():
        peer = found.get("trl", found.get("verl"))
        assert (abs(value - peer["loss"]) < 1e-5) == (other == name)


@batches
def test_advantages_are_those_of_verl(batch):
    rewards, want = batch["rewards"], batch["advantages"]
    found = {
        "group": group_advantages(rewards, GROUPS),
        "group_no_std": group_advantages(rewards, GROUPS, std=False),
        "rloo": leave_one_out_advantages(rewards, GROUPS),
    }
    assert found.keys() == want.keys()
    for name, values in found.items():
        np.testing.assert_allclose(values, want[name], atol=1e-6)
