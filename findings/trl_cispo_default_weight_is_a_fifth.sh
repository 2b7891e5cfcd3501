#!/usr/bin/env bash
# TRL's loss_type="cispo" clips a token's weight at epsilon_high itself, the others at
# 1 + epsilon_high, and epsilon_high defaults to epsilon, which is 0.2. So with default
# settings every weight is 0.2, that of a token whose policy has not changed too: the
# first update's gradient is a fifth of that of loss_type="dapo", whose formula is the
# same where all ratios are 1, any other term of the loss weighs five times as much, and
# the ratio is hardly ever read. With the 0.28 of DAPO it is 0.28 of it; with the 5.0
# that the docs recommend it is 1. No warning is given; verl 0.9.1 reads the same 0.2 as
# 1.2. Seen:
#   1.16.0 [0.2, 0.28, 1.0]
# shares of dapo's gradient norm with defaults, epsilon 0.28, epsilon_high 5.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "torch==2.13.0" "transformers<5.11" "trl==1.16.0"
cat > look.py <<'PY'
import logging
import warnings

import trl
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    set_seed,
)

words = {word: i for i, word in enumerate(["<pad>", "<eos>", *map(str, range(30))])}
tokenizer = Tokenizer(WordLevel(words, unk_token="<pad>"))
tokenizer.pre_tokenizer = Whitespace()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>"
)
model = LlamaConfig(
    vocab_size=len(words),
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=1,
    num_attention_heads=2,
    bos_token_id=1,
    eos_token_id=1,
    pad_token_id=0,
)


def different_words(completions, **_):
    return [float(len(set(text.split()))) for text in completions]


def norm(loss_type, **options):
    """Gradient norm of the first update, in which every ratio is 1."""
    set_seed(0)
    trainer = trl.GRPOTrainer(
        model=LlamaForCausalLM(model),
        processing_class=tokenizer,
        reward_funcs=different_words,
        train_dataset=Dataset.from_dict({"prompt": ["1 2 3"] * 8}),
        args=trl.GRPOConfig(
            output_dir="out",
            loss_type=loss_type,
            per_device_train_batch_size=8,
            num_generations=8,
            max_completion_length=8,
            max_steps=1,
            logging_steps=1,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            bf16=False,
            **options,
        ),
    )
    trainer.train()
    log = trainer.state.log_history
    return next(entry["grad_norm"] for entry in log if "grad_norm" in entry)


warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
usual = norm("dapo")
given = ({}, {"epsilon": 0.28}, {"epsilon_high": 5.0})
shares = [round(norm("cispo", **options) / usual, 3) for options in given]
print(trl.__version__, shares)
PY
found=$(HF_HUB_OFFLINE=1 venv/bin/python look.py 2>/dev/null | tail -n 1)
echo "$found"
test "$found" = "1.16.0 [0.2, 0.28, 1.0]"
