"""The engine's promise where layers differ: windows, none, no positions."""

import jax
import numpy as np
import pytest

from models import forward
from models.config import DecoderConfig
from models.rope import Rope
from rl.engine.config import EngineConfig
from rl.engine.engine import Engine
from rl.records import Request, SamplingParams

SIZES = EngineConfig(
    slots=4,
    max_length=96,
    decode_steps=4,
    prefill_chunk=8,
    prefill_rows=2,
    page_size=8,
)


SHAPE = dict(
    vocab_size=64,
    num_layers=4,
    hidden_size=32,
    intermediate_size=48,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
)
SLIDES = dict(window=11, window_layers=(True, True, True, False))
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32)
CONFIGS = {
    "olmo3": dict(
        rope=Rope(**YARN), window_rope=Rope(), tie_embeddings=False, **SLIDES
    ),
    "gemma3_text": dict(
        rope=Rope(rope_type="linear", factor=4.0),
        window_rope=Rope(rope_theta=100.0),
        query_scalar=12.0,
        final_softcap=5.0,
        **SLIDES,
    ),
    "smollm3": dict(rope_layers=(True, True, True, False)),
    "ministral3": dict(rope=Rope(llama_4_scaling_beta=0.3, **YARN), head_dim=16),
}


@pytest.fixture(scope="module", params=CONFIGS)
def config(request):
    return DecoderConfig(model_type=request.param, **SHAPE | CONFIGS[request.param])


@pytest.fixture(scope="module")
def params(config):
    make = jax.jit(lambda key: forward.init(config, key, embed_std=0.5))
    return make(jax.random.key(4))


class Letters:
    def get_vocab(self):
        return {str(i): i for i in range(64)}

    def decode(self, ids, skip_special_tokens=False):
        return "".join("ABCDEFGHIJ"[i % 10] for i in ids)


def request(length: int, new: int) -> Request:
    ids = np.random.default_rng(length).integers(0, 64, length).tolist()
    greedy = SamplingParams(max_new_tokens=new, temperature=0.0)
    return Request(ids=tuple(ids), sampling=greedy)


def test_greedy_is_a_plain_loop_over_whole_rows_and_bit_equal_in_any_company(
    config, params
):
    # From prompts shorter than the window, whose rows need the first block, to such
    # that have left several blocks behind.
    requests = [request(*sizes) for sizes in ((5, 30), (61, 30), (34, 9), (50, 21))]
    engine = Engine(params, config, Letters(), SIZES)
    together = engine.generate(requests)
    for asked, done in zip(requests, together, strict=True):
        engine.set_params(params)
        (alone,) = engine.generate([asked])
        assert (alone.ids, alone.logprobs) == (done.ids, done.logprobs)

    run = jax.jit(forward.forward, static_argnums=1)
    for asked, done in zip(requests, together, strict=True):
        ids = list(asked.ids)
        row = np.zeros((1, 96), int)
        for token, logprob in zip(done.ids, done.logprobs, strict=True):
            row[0, : len(ids)] = ids
            logits = run(params, config, row)[0, len(ids) - 1]
            assert token == int(np.argmax(logits))
            np.testing.assert_allclose(
                logprob, jax.nn.log_softmax(logits)[token], atol=1e-5
            )
            ids.append(token)


@pytest.mark.parametrize("config", ["olmo3"], indirect=True)
def test_what_was_no_number_in_a_page_is_never_seen_again(config, params):
    requests = [request(*sizes) for sizes in ((5, 30), (61, 30), (34, 9))]
    engine = Engine(params, config, Letters(), SIZES)
    expected = engine.generate(requests)
    engine.set_params(jax.tree.map(lambda x: x * np.nan, params))
    (broken, *_) = engine.generate([request(length, 30) for length in range(40, 60)])
    assert np.isnan(broken.logprobs).all()
    engine.set_params(params)
    again = engine.generate(requests)
    for first, second in zip(expected, again, strict=True):
        assert (first.ids, first.logprobs) == (second.ids, second.logprobs)
