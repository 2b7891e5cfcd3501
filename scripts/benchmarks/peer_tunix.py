"""google-tunix as a peer: its sampler on conversations, its GRPO step on rollouts.

Runs in an interpreter that has tunix and nothing of ours, and talks as ``harness.Peer``
expects.

The sampler: every turn pads its prompts to the left and computes them again; the rows
of a batch end together, with the longest. The cache is only as long as each call needs,
prompts are padded to multiples of 256 (not to powers of two, the sampler's own choice)
and new tokens to multiples of 32, so that few shapes are compiled.

The step: tunix's own trainer, its loss as ``GRPOLearner`` sets it, no recomputation.
Prompts are padded to the left and completions to the right, no further than the longest
needs (its packed rows want a TPU's attention).
"""

import json
import sys
import time
from pathlib import Path


class Ids:
    """A tokenizer whose text is numbers; 0 is padding and nothing ends a row."""

    def encode(self, text):
        """The ids that the text lists."""
        return [int(word) for word in text.split()]

    def decode(self, ids):
        """No text."""
        return ""

    def bos_id(self):
        """None."""
        return 0

    def eos_id(self):
        """No token."""
        return -1

    def pad_id(self):
        """Never in the work."""
        return 0


def load(folder):
    """The model of a Hugging Face folder, float32, and its configuration."""
    import jax.numpy as jnp
    from tunix.models.qwen3 import model as qwen3
    from tunix.models.qwen3 import params as qwen3_params

    c = json.loads((Path(folder) / "config.json").read_text())
    theta = c.get("rope_theta") or c["rope_parameters"]["rope_theta"]
    config = qwen3.ModelConfig(
        num_layers=c["num_hidden_layers"],
        vocab_size=c["vocab_size"],
        embed_dim=c["hidden_size"],
        hidden_dim=c["intermediate_size"],
        num_heads=c["num_attention_heads"],
        head_dim=c["head_dim"],
        num_kv_heads=c["num_key_value_heads"],
        rope_theta=int(theta),
        norm_eps=c["rms_norm_eps"],
        use_tied_embedding=c["tie_word_embeddings"],
    )
    return config, qwen3_params.create_model_from_safe_tensors(
        folder, config, dtype=jnp.float32
    )


def up(count, unit):
    """``count``, up to the next multiple of ``unit``."""
    return -(-count // unit) * unit


class Player:
    """Plays conversations; keeps a sampler for each size of cache."""

    def __init__(self, folder):
        import jax

        self.config, self.model = load(folder)
        self.samplers = {}
        self.compiling = 0.0  # seconds so far
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event, seconds, **_):
        if event.startswith("/jax/core/compile/"):
            self.compiling += seconds

    def sample(self, prompts, new):
        """New tokens for prompts, and how many prompt tokens were computed."""
        from tunix.generate.sampler import CacheConfig, Sampler

        longest = max(map(len, prompts))
        length = up(longest, 256 if longest > 256 else 64)
        steps = up(new, 32)
        size = length + steps
        if size not in self.samplers:
            c = self.config
            cache = CacheConfig(
                cache_size=size,
                num_layers=c.num_layers,
                num_kv_heads=c.num_kv_heads,
                head_dim=c.head_dim,
            )
            self.samplers[size] = Sampler(self.model, Ids(), cache)
        output = self.samplers[size](
            [" ".join(map(str, prompt)) for prompt in prompts],
            max_generation_steps=steps,
            max_prompt_length=length,
            eos_tokens=[-1],
            temperature=1.0,
            top_p=1.0,
        )
        return output.tokens, length * len(prompts)

    def play(self, conversations, batch):
        """Seconds without compiling, and prompt tokens computed, with padding."""
        prefilled = 0
        started, compiling = time.perf_counter(), self.compiling
        for first in range(0, len(conversations), batch):
            rows = conversations[first : first + batch]
            prompts = [list(row["prompt"]) for row in rows]
            for turns in zip(*(row["turns"] for row in rows), strict=True):
                tokens, computed = self.sample(prompts, max(t["new"] for t in turns))
                prefilled += computed
                for prompt, turn, new in zip(prompts, turns, tokens, strict=True):
                    used = [max(1, int(token)) for token in new[: turn["new"]]]
                    assert len(used) == turn["new"], (len(used), turn["new"])
                    prompt += used + turn["result"]
        seconds = time.perf_counter() - started
        seconds -= self.compiling - compiling
        return {"seconds": seconds, "prefilled": prefilled}


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


def generate(settings):
    """All conversations per turn, after the first turns of one batch."""
    work = json.loads(Path(settings["work"]).read_text())
    player = Player(settings["model"])
    player.play(work["warm"], work["batch"])
    return {}, lambda: player.play(work["conversations"], work["batch"])


def update(settings):
    """One optimizer step per turn, after a first one that says what it found."""
    import jax
    import numpy as np
    from flax import nnx

    _, model = load(settings["model"])
    rollouts = json.loads(Path(settings["work"]).read_text())
    size = len(rollouts) // settings["micro"]["tunix"]
    starts = range(0, len(rollouts), size)
    examples = [padded(rollouts[start : start + size]) for start in starts]
    if len({example.completion_ids.shape for example in examples}) > 1:
        whole = padded(rollouts)
        examples = [
            jax.tree.map(lambda x, at=start: x[at : at + size], whole)
            for start in starts
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
    say = {"loss": first["loss"]}
    if len(examples) == 1:  # else it is each micro-batch's own
        say["norm"] = first["norm"]
    shape = [*examples[0].prompt_ids.shape, examples[0].completion_ids.shape[1]]
    return say | {"rows, prompt, completion": shape}, turn


def main():
    """Gets ready, says so, then does one turn for every line of the input."""
    import jax
    import tunix

    settings = json.loads(sys.argv[1])
    ready, turn = {"generate": generate, "update": update}[settings["task"]](settings)
    versions = {"tunix": tunix.__version__, "jax": jax.__version__}
    print(json.dumps(versions | ready), flush=True)
    for _ in sys.stdin:
        print(json.dumps(turn()), flush=True)


if __name__ == "__main__":
    main()
