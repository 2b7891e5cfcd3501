"""TRL as a peer: its GRPOTrainer on rollouts.

Its own training loop, loss and optimizer; only what would sample and score completions
gives the stored ones back. Rows are padded no further than the longest needs, nothing
is recomputed. Runs in an interpreter that has trl and nothing of ours, and talks as
``harness.Peer`` expects.
"""

import json
import sys
import tempfile
import time
from pathlib import Path


def padded(rollouts):
    """All rollouts as what ``_generate_and_score_completions`` returns."""
    import torch

    count = len(rollouts)
    left = max(row["prompt"] for row in rollouts)
    right = max(len(row["ids"]) - row["prompt"] for row in rollouts)
    names = ("prompt_ids", "prompt_mask")
    out = {name: torch.zeros(count, left, dtype=torch.long) for name in names}
    names = ("completion_ids", "completion_mask", "tool_mask")
    out |= {name: torch.zeros(count, right, dtype=torch.long) for name in names}
    out["old_per_token_logps"] = torch.zeros(count, right)
    for i, row in enumerate(rollouts):
        start, n = row["prompt"], len(row["ids"]) - row["prompt"]
        out["prompt_ids"][i, left - start :] = torch.tensor(row["ids"][:start])
        out["prompt_mask"][i, left - start :] = 1
        out["completion_ids"][i, :n] = torch.tensor(row["ids"][start:])
        out["completion_mask"][i, :n] = 1
        out["tool_mask"][i, :n] = torch.tensor(row["loss_mask"][start:])
        logprobs = torch.tensor(row["logprobs"][start:])
        out["old_per_token_logps"][i, :n] = logprobs
    out["advantages"] = torch.tensor([row["advantage"] for row in rollouts])
    out["num_items_in_batch"] = out["tool_mask"].sum()
    return out


def tokenizer(vocab):
    """One whose text is numbers; 0 is padding."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {str(i): i for i in range(vocab)}
    made = Tokenizer(models.WordLevel(words, unk_token="0"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="0", eos_token="1", unk_token="0"
    )


def make_trainer(settings, stored, folder, callback):
    """A trainer that trains on ``stored`` in every step."""
    import datasets
    import torch
    import transformers
    from trl import GRPOConfig, GRPOTrainer

    class Stored(GRPOTrainer):
        def _generate_and_score_completions(self, inputs):
            return {name: value.clone() for name, value in stored.items()}

    o, micro = settings["optimizer"], settings["micro"]["trl"]
    count = len(stored["advantages"])
    model = transformers.AutoModelForCausalLM.from_pretrained(
        settings["model"], dtype=torch.float32
    )
    config = GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=count // micro,
        gradient_accumulation_steps=micro,
        num_generations=8,
        loss_type="grpo",
        beta=0.0,
        epsilon=settings["clip"],
        max_completion_length=stored["completion_ids"].shape[1],
        learning_rate=o["learning_rate"],
        lr_scheduler_type="constant",
        adam_beta1=o["beta1"],
        adam_beta2=o["beta2"],
        adam_epsilon=o["epsilon"],
        weight_decay=o["weight_decay"],
        max_grad_norm=o["clip_norm"],
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        max_steps=1_000_000,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    rows = [{"prompt": "2"}] * count
    return Stored(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer(settings["vocab"]),
        callbacks=[callback],
    )


def main():
    """Does a first step, says what it found, then one for every line of the input."""
    import torch
    import transformers
    import trl

    settings = json.loads(sys.argv[1])
    transformers.utils.logging.disable_progress_bar()
    said, sys.stdout = sys.stdout, sys.stderr  # the trainer prints its logs
    rollouts = json.loads(Path(settings["work"]).read_text())
    stored = padded(rollouts)

    class Turns(transformers.TrainerCallback):
        def __init__(self):
            self.steps = 0

        def on_step_begin(self, args, state, control, **_):
            if self.steps and not sys.stdin.readline():
                control.should_training_stop = True
            self.started = time.perf_counter()

        def on_log(self, args, state, control, logs=None, **_):
            if "grad_norm" not in logs:
                return
            answer = {"seconds": self.ended - self.started}
            if not self.steps:
                shape = [*stored["prompt_ids"].shape, stored["tool_mask"].shape[1]]
                answer = {
                    "trl": trl.__version__,
                    "torch": torch.__version__,
                    "loss": float(logs["loss"]),
                    "norm": float(logs["grad_norm"]),
                    "rows, prompt, completion": shape,
                }
            self.steps += 1
            print(json.dumps(answer), file=said, flush=True)

        def on_step_end(self, args, state, control, **_):
            self.ended = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        make_trainer(settings, stored, folder, Turns()).train()


if __name__ == "__main__":
    main()
