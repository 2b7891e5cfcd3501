"""OLMo-3-7B-Instruct with function-call text, every constant as in the reference.

Hardware: six GPUs of 80 GB: 0 and 1 for inference, 2 to 5 for training.
Input: passages (`--retrieval.passages`) in any form of docs/your-text.md; the reference
uses Wikipedia of 2018. Build the index first: `scripts/build_index.py --passages
wiki-18.jsonl --encoder transformer --encoder-path intfloat/e5-base-v2`.
Expect: as many iterations, steps and tasks as `qwen25_7b`. Not measured here yet.

    python scripts/train.py --config olmo3_7b --retrieval.passages wiki-18.jsonl
"""

from dataclasses import replace

from configs import qwen25_7b
from scope_jax.config import Config, ModelConfig
from scope_jax.method.challenger import ChallengerConfig


def config() -> Config:
    """`qwen25_7b` with another format, template, and larger cache."""
    base = qwen25_7b.config()
    # A token of context is 524 KB of cache in bfloat16: 26 GB on each of the trainer's
    # GPUs, 6,144 tokens for each of its 8 slots there. On each GPU of the inference
    # process Solver and judge have room for one context of full length.
    return replace(
        base,
        name="olmo3_7b",
        tool_format="function_calls_xml",
        model=ModelConfig(
            path="allenai/Olmo-3-7B-Instruct", template="olmo3_consistent_eos"
        ),
        challenger=ChallengerConfig(style="chain2_xml"),
        engine=replace(base.engine, slots=32, cache_tokens=196_608),
        inference=replace(
            base.inference,
            engine=replace(base.inference.engine, slots=16, cache_tokens=65_536),
        ),
    )
