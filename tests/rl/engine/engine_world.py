"""A tiny engine's sizes and tokenizer, and requests to ask of it."""

from dataclasses import replace

import jax
import numpy as np

from models import forward
from rl.engine.config import EngineConfig
from rl.engine.sampling import seed64
from rl.records import Request, SamplingParams

SIZES = EngineConfig(
    slots=8,
    max_length=128,
    decode_steps=4,
    prefill_chunk=16,
    prefill_rows=2,
    page_size=32,
)


class Letters:
    """Every id is one letter; the model has four ids more than there are here."""

    def get_vocab(self):
        return {str(i): i for i in range(60)}

    def decode(self, ids, skip_special_tokens=False):
        return "".join("ABCDEFGHIJ"[i % 10] for i in ids)


def make_params(config, seed: int):
    return jax.jit(lambda key: forward.init(config, key, embed_std=0.5))(
        jax.random.key(seed)
    )


def request(seed: int, length: int = 20, new: int = 12, **fields) -> Request:
    ids = np.random.default_rng(seed).integers(0, 60, length).tolist()
    sampling = SamplingParams(max_new_tokens=new, **fields.pop("sampling", {}))
    seed64_ = fields.pop("seed64", seed64("test", seed))
    return Request(ids=tuple(ids), sampling=sampling, seed64=seed64_, **fields)


def crowd(count: int = 24) -> list[Request]:
    """Prompts of many lengths, in groups, extending others, in all samplings."""
    samplings = [{}, {"temperature": 0.0}, {"top_p": 0.7}, {"top_k": 5, "min_p": 0.01}]
    requests = []
    for i in range(count):
        base = request(i // 3, 5 + 11 * (i // 3), 2 + 7 * (i % 4))
        extra = request(100 + i, 13).ids if i % 3 == 2 else ()
        requests.append(
            replace(
                base,
                ids=base.ids + extra,
                seed64=seed64("crowd", i),
                sampling=replace(base.sampling, **samplings[i % 4]),
            )
        )
    return requests


def sampled(completions):
    return [(c.ids, c.logprobs, c.text, c.finish_reason) for c in completions]
