"""google-tunix's GRPO step on the rollouts; runs in an interpreter of its own.

Its own trainer, its own loss as ``GRPOLearner`` sets it, no recomputation. Prompts are
padded to the left and completions to the right, no further than the longest needs (its
packed rows want a TPU's attention). Talks as ``harness.Peer`` expects.
"""

import json
import sys
import time
from pathlib import Path


def padded(rollouts):
    """All rollouts as one of tunix's training examples, on the host."""
    import numpy as np
    from tunix.rl.grpo.grpo_learner import TrainExample

    count = len(rollouts)
    left = max(row["prompt"] for row in rollouts)
    right = max(len(row["ids"]) - row["prompt"] for row in rollouts)
    prompts = np.zeros((count, left), np.int32)
    completions = np.zeros((count, right), np.int32)
    mask, old = np.zeros((count, right), np.int32), np.zeros((count, right), np.float32)
    for i, row in enumerate(rollouts):
        start, n = row["prompt"], len(row["ids"]) - row["prompt"]
        prompts[i, left - start :] = row["ids"][:start]
        completions[i, :n] = row["ids"][start:]
        mask[i, :n] = row["loss_mask"][start:]
        old[i, :n] = row["logprobs"][start:]
    return TrainExample(
        prompt_ids=prompts,
        prompt_mask=prompts != 0,
        completion_ids=completions,
        completion_mask=mask,
        advantages=np.array([row["advantage"] for row in rollouts], np.float32),
        ref_per_token_logps=None,
        old_per_token_logps=old,
    )


def make_trainer(model, settings):
    """A trainer with the loss that ``GRPOLearner`` gives it."""
    import optax
    from tunix.rl import function_registry, trainer
    from tunix.rl.grpo.grpo_learner import GRPOConfig
    from tunix.sft.peft_trainer import TrainingConfig

    config = GRPOConfig(num_generations=8, beta=0.0, epsilon=settings["clip"])
    config.temperature = 1.0
    loss = function_registry.get_policy_loss_fn(config.policy_loss_fn)
    o = settings["optimizer"]
    optimizer = optax.chain(
        optax.clip_by_global_norm(o["clip_norm"]),
        optax.adamw(
            o["learning_rate"],
            b1=o["beta1"],
            b2=o["beta2"],
            eps=o["epsilon"],
            weight_decay=o["weight_decay"],
        ),
    )
    micro = settings["micro"]["tunix"]
    made = trainer.Trainer(
        model,
        optimizer,
        TrainingConfig(
            eval_every_n_steps=1_000_000,
            gradient_accumulation_steps=micro if micro > 1 else None,
        ),
        dict,
    )
    made.with_loss_fn(
        lambda model, train_example, algo_config: loss(
            model, train_example, algo_config=config, pad_id=0, eos_id=-1
        ),
        has_aux=True,
    )
    made.with_gen_model_input_fn(lambda x: {"train_example": x, "algo_config": config})
    return made


def main():
    """Load, do a step, say what it found, then do one for every line of the input."""
    import jax
    import numpy as np
    import tunix
    from flax import nnx

    settings = json.loads(sys.argv[1])
    sys.path.insert(0, str(Path(__file__).parent))
    from generation_tunix import load

    _, model = load(settings["model"])
    rollouts = json.loads(Path(settings["work"]).read_text())
    size = len(rollouts) // settings["micro"]["tunix"]
    examples = [
        padded(rollouts[start : start + size])
        for start in range(0, len(rollouts), size)
    ]
    if len({example.completion_ids.shape for example in examples}) > 1:
        whole = padded(rollouts)
        examples = [
            jax.tree.map(lambda x, at=start: x[at : at + size], whole)
            for start in range(0, len(rollouts), size)
        ]
    made = make_trainer(model, settings)
    step, _ = made.jit_train_and_eval_step(cache_nnx_graph=True)

    def turn():
        started = time.perf_counter()
        found = [step(example) for example in examples]
        jax.block_until_ready(nnx.state(model))
        seconds = time.perf_counter() - started
        loss = float(np.mean([float(loss) for loss, _, _ in found]))
        return {"seconds": seconds, "loss": loss, "norm": float(found[0][2])}

    first = turn()
    say = {"tunix": tunix.__version__, "jax": jax.__version__, "loss": first["loss"]}
    if len(examples) == 1:  # else it is each micro-batch's own
        say["norm"] = first["norm"]
    shapes = [list(e.prompt_ids.shape) + [e.completion_ids.shape[1]] for e in examples]
    print(json.dumps(say | {"rows, prompt, completion": shapes[0]}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(turn()), flush=True)


if __name__ == "__main__":
    main()
