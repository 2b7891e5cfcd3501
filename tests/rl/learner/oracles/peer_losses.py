"""Writes ``peer_losses.json``: TRL's and verl's own losses on random ragged batches.

Not part of the tests: they read the file. To write it again, in an environment of its
own (verl 0.9.1 needs an older transformers than ours):

    pip install torch==2.13.0 "transformers<5.11" trl==1.16.0 tensordict==0.10.0 \
        omegaconf ray codetiming hydra-core dill torchdata orjson peft
    pip install --no-deps verl==0.9.1
    python tests/rl/learner/oracles/peer_losses.py
"""

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import trl
import verl
from trl import GRPOTrainer
from verl.trainer.ppo import core_algos
from verl.workers.config import ActorConfig

LENGTHS = ([3, 1, 7, 5, 9, 2], [8, 8, 1, 4, 6, 3])
MAX_LENGTH = 12  # of a completion: the constant of Dr. GRPO

# name: (TRL's loss_type and level or None, verl's loss and aggregation, clip)
LOSSES = {
    "gspo": (("grpo", "sequence"), ("gspo", "seq-mean-token-mean"), (3e-4, 4e-4)),
    "gspo_tokens": (("dapo", "sequence"), ("gspo", "token-mean"), (3e-4, 4e-4)),
    "dr_grpo": (
        ("dr_grpo", "token"),
        ("vanilla", "seq-mean-token-sum-norm"),
        (0.2, 0.2),
    ),
    "dapo": (("dapo", "token"), ("vanilla", "token-mean"), (0.2, 0.28)),
    "sapo": (("sapo", "token"), ("sapo", "seq-mean-token-mean"), (0.2, 0.2)),
    "cispo": (None, ("cispo", "token-mean"), (0.2, 0.28)),
    # TRL clips above only, and at epsilon_high itself: 1 + clip_high here.
    "cispo_above": (("cispo", "token"), None, (1.0, 1.28)),
}


def batch(lengths, seed):
    """Two groups of three rollouts: log-probs, mask and 0.1-spaced rewards."""
    rng = np.random.default_rng(seed)
    mask = np.arange(MAX_LENGTH) < np.array(lengths)[:, None]
    new = -rng.exponential(1.5, mask.shape)
    moved = rng.normal(size=mask.shape) * rng.choice([1e-4, 0.1, 0.6], (6, 1))
    rewards = rng.integers(0, 11, 6) / 10
    return new * mask, (new - moved) * mask, mask.astype(float), rewards


def grpo(rewards, mask, *, std):
    got, _ = core_algos.compute_grpo_outcome_advantage(
        spread(rewards, mask), torch.tensor(mask), GROUPS, norm_adv_by_std_in_grpo=std
    )
    return got[:, 0].tolist()


def rloo(rewards, mask):
    got, _ = core_algos.compute_rloo_outcome_advantage(
        spread(rewards, mask), torch.tensor(mask), GROUPS
    )
    return got[:, 0].tolist()


GROUPS = np.array([0, 0, 0, 1, 1, 1])


def spread(rewards, mask):
    """Rewards on each rollout's first token."""
    out = torch.zeros(mask.shape, dtype=torch.float64)
    out[:, 0] = torch.tensor(rewards)
    return out


def of_trl(kind, level, clip, new, old, mask, advantages):
    """Loss and gradient of ``GRPOTrainer._compute_loss`` for given log-probs."""
    logps = torch.tensor(new, requires_grad=True)
    same = SimpleNamespace(
        gather=lambda x: x, reduce=lambda x, reduction: x, num_processes=1
    )
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (
            logps,
            torch.zeros_like(logps),
            None,
        ),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level=level,
        beta=0.0,
        loss_type=kind,
        epsilon_low=clip[0],
        epsilon_high=clip[1],
        max_completion_length=MAX_LENGTH,
        use_vllm=False,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        accelerator=same,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
        args=SimpleNamespace(
            delta=None,
            sapo_temperature_pos=1.0,
            sapo_temperature_neg=1.05,
            steps_per_generation=1,
        ),
    )
    ones = torch.ones(mask.shape)
    loss = GRPOTrainer._compute_loss(
        trainer,
        None,
        {
            "prompt_ids": ones[:, :1],
            "prompt_mask": ones[:, :1],
            "completion_ids": ones,
            "completion_mask": torch.tensor(mask),
            "advantages": torch.tensor(advantages),
            "old_per_token_logps": torch.tensor(old),
            "num_items_in_batch": torch.tensor(mask.sum()),
        },
    )
    loss.backward()
    return {"loss": loss.item(), "gradient": logps.grad.tolist()}


def of_verl(name, aggregation, clip, new, old, mask, advantages):
    """Loss and gradient of the function that verl has registered as ``name``."""
    logps = torch.tensor(new, requires_grad=True)
    config = ActorConfig(
        strategy="fsdp",
        rollout_n=3,
        use_dynamic_bsz=True,
        clip_ratio_low=clip[0],
        clip_ratio_high=clip[1],
    )
    loss, _ = core_algos.get_policy_loss_fn(name)(
        old_log_prob=torch.tensor(old),
        log_prob=logps,
        advantages=torch.tensor(advantages)[:, None] * torch.tensor(mask),
        response_mask=torch.tensor(mask),
        loss_agg_mode=aggregation,
        config=config,
    )
    loss.backward()
    return {"loss": loss.item(), "gradient": logps.grad.tolist()}


def main():
    found = {"versions": {"trl": trl.__version__, "verl": verl.__version__}}
    found |= {"max_length": MAX_LENGTH, "batches": []}
    for seed, lengths in enumerate(LENGTHS):
        new, old, mask, rewards = batch(lengths, seed)
        advantages = {
            "group": grpo(rewards, mask, std=True),
            "group_no_std": grpo(rewards, mask, std=False),
            "rloo": rloo(rewards, mask),
        }
        given = np.array(advantages["group"])
        losses = {}
        for name, (in_trl, in_verl, clip) in LOSSES.items():
            values = (clip, new, old, mask, given)
            each = {"clip": clip}
            if in_trl:
                each["trl"] = of_trl(*in_trl, *values)
            if in_verl:
                each["verl"] = of_verl(*in_verl, *values)
            losses[name] = each
        found["batches"].append(
            {
                "lengths": lengths,
                "rewards": rewards.tolist(),
                "new": new.tolist(),
                "old": old.tolist(),
                "advantages": advantages,
                "losses": losses,
            }
        )
    path = Path(__file__).with_name("peer_losses.json")
    text = json.dumps(found, indent=None, separators=(",", ":"))
    path.write_text(text.replace('"losses":', '\n"losses":') + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
