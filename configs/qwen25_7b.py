"""Qwen2.5-7B-Instruct with search tags, every constant as in the reference.

Hardware: six GPUs of 80 GB: 0 and 1 for inference, 2 to 5 for training.
Input: passages (`--retrieval.passages`) in any form of docs/your-text.md; the reference
uses Wikipedia of 2018. Build the index first: `scripts/build_index.py --passages
wiki-18.jsonl --encoder transformer --encoder-path intfloat/e5-base-v2`.
Expect: three iterations of 20 Challenger steps (64 x 8 rollouts), up to 5,120 tasks and
20 Solver steps (256 x 8 rollouts). Not measured here yet.

    python scripts/train.py --config qwen25_7b --retrieval.passages wiki-18.jsonl
"""

from dataclasses import replace

from retrieval.config import RetrievalConfig
from rl.engine.config import EngineConfig
from scope_jax.config import Config, ModelConfig
from scope_jax.inference import InferenceConfig
from scope_jax.system.placement import gpus


def config() -> Config:
    """The defaults of the method are this family's."""
    # A token of context is 57 KB of cache in bfloat16: 23 GB on each of the trainer's
    # GPUs, 12,288 tokens for each of its 32 slots there. Judge and Solver share their
    # GPUs with the search's encoder; most of their contexts are shorter.
    engine = EngineConfig(
        slots=128,
        max_length=32768,
        cache_tokens=1_572_864,
        prefill_chunk=256,
        page_size=256,
    )
    return Config(
        name="qwen25_7b",
        tool_format="search_r1",
        model=ModelConfig(path="Qwen/Qwen2.5-7B-Instruct"),
        engine=engine,
        retrieval=RetrievalConfig(
            encoder="transformer",
            encoder_path="intfloat/e5-base-v2",
            passage_batch=512,
            query_batch=64,
        ),
        inference=InferenceConfig(
            engine=replace(engine, slots=64, cache_tokens=393_216),
            request_timeout=28800.0,
        ),
        placement=gpus(trainer=4, inference=2),
    )
