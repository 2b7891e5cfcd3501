"""Scanned, packed, cached, rematerialized: the same numbers, and no others are seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import forward
from models.attention import row_attention
from models.cache import init_cache
from models.config import DecoderConfig
from models.decoder import Block
from models.embedding import embed
from models.errors import UserError
from models.hf.published import PUBLISHED
from models.layers import rms_norm
from models.rope import rope_table
from models.unstacked import unstack
from tests.models.oracle import pair

run = jax.jit(forward.forward, static_argnums=1)

FAMILIES = ("qwen3", "qwen2", "llama", "olmo3")
TOLERANCE = 1e-4  # of the logits' standard deviation


def oracle(family: str, *, tie: bool, seed: int = 0):
    """A transformers model with every tensor random, and our config and params."""
    fields = {"tie_word_embeddings": tie, "num_hidden_layers": 4}
    if family == "qwen3":
        fields["head_dim"] = 16
    if family == "olmo3":
        fields["sliding_window"] = 5
        fields["attention_bias"] = True
    return pair(family, seed=seed, **fields)


def assert_same(got, expected):
    error = np.abs(np.asarray(got) - np.asarray(expected)).max()
    assert error <= TOLERANCE * np.std(expected)


def test_init_makes_the_tree_that_the_forward_pass_reads():
    for family in FAMILIES:
        _, config, params = oracle(family, tie=False)
        made = jax.eval_shape(lambda: forward.init(config, jax.random.key(0)))  # noqa: B023
        assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, params)


@pytest.mark.parametrize("family", ["qwen2", "olmo3"])
def test_the_scan_is_a_loop_over_layers(family):
    _, config, params = oracle(family, tie=False)
    tokens = np.random.default_rng(1).integers(0, 97, (2, 20))

    def loop(params):
        x = params["embed"][tokens]
        positions = jnp.arange(20)[None]
        for index, block in enumerate(unstack(params, config)["blocks"]):
            window = config.layer_window(index)
            rope = rope_table(positions, config.head_dim, config.layer_rope(index))

            def attend(q, k, v, window=window):
                options = {"backend": "reference", "window": window}
                return row_attention(q, k, v, **options), None

            x, _ = Block(config, joined=True).apply({"params": block}, x, rope, attend)
        x = rms_norm(x, params["final_norm"], config.rms_norm_eps)
        return forward.unembed(params, config, x)

    assert config.period == (4 if family == "olmo3" else 1)
    assert_same(run(params, config, tokens), jax.jit(loop)(params))


@pytest.mark.parametrize("family", ["qwen3", "olmo3"])
def test_packed_segments_do_not_see_each_other(family):
    _, config, params = oracle(family, tie=True)
    tokens = np.random.default_rng(1).integers(0, 97, (1, 20))
    segment_ids = np.array([[1] * 8 + [2] * 9 + [0] * 3])
    positions = np.array([[*range(8), *range(9), 0, 0, 0]])
    packed = run(params, config, tokens, positions=positions, segment_ids=segment_ids)
    assert_same(packed[:, :8], run(params, config, tokens[:, :8]))
    assert_same(packed[:, 8:17], run(params, config, tokens[:, 8:17]))
    assert np.isfinite(packed).all()


PROMPTS = {0: 13, 2: 4}  # slot: tokens of its prompt
CHUNK = 4


def decode(params, config, tokens, prompts):
    """Logits of each slot's tokens from its prompt's last on, from the cache."""
    params = unstack(params, config)
    slots, length = tokens.shape
    each = -(-length // CHUNK)  # pages of a slot
    cache = init_cache(config, slots * each, CHUNK, jnp.float32)
    tables = np.random.default_rng(0).permutation(slots * each).reshape(slots, each)
    nowhere = np.full((1, each), slots * each)
    prefill = jax.jit(forward.prefill, static_argnums=1)
    step = jax.jit(forward.decode_step, static_argnums=1)
    chunks = [(s, at) for s, n in prompts.items() for at in range(0, n, CHUNK)]
    chunks += [(slots, 0)] * (6 - len(chunks))  # the others are padding
    parts = [tokens[s % slots, at : at + CHUNK] for s, at in chunks]
    last = [min(prompts.get(s, 1) - at, CHUNK) - 1 for s, at in chunks]
    rows, starts = np.asarray(chunks).T
    own = np.concatenate([tables, nowhere])[rows]
    cache, hidden = prefill(
        params, config, cache, np.stack(parts), own, starts, np.asarray(last)
    )
    found = {s: [] for s in prompts}
    for (slot, at), state in zip(chunks, hidden, strict=True):
        if slot in prompts and at + CHUNK >= prompts[slot]:
            found[slot].append(state)
    at = np.zeros(slots, int)
    for slot, count in prompts.items():
        at[slot] = count
    for _ in range(length - max(prompts.values())):
        active = np.isin(np.arange(slots), list(prompts))
        new = tokens[np.arange(slots), at]
        cache, hidden = step(params, config, cache, new, tables, at, active)
        for slot in prompts:
            found[slot].append(hidden[slot])
        at[active] += 1
    unembed = lambda states: forward.unembed(params, config, jnp.stack(states))  # noqa: E731
    return {slot: np.asarray(unembed(states)) for slot, states in found.items()}


@pytest.mark.parametrize("family", ["qwen3", "olmo3"])
def test_prefill_and_decode_are_the_whole_row(family):
    _, config, params = oracle(family, tie=False)
    tokens = np.random.default_rng(2).integers(0, 97, (3, 28))
    whole = run(params, config, tokens)
    cached = decode(params, config, tokens, PROMPTS)
    for slot, count in PROMPTS.items():
        logits = cached[slot]
        assert_same(logits, whole[slot, count - 1 : count - 1 + len(logits)])
    # Alone, a slot reads other blocks (the short prompt's window needs the first ones):
    # not a bit differs.
    for slot, count in PROMPTS.items():
        (alone,) = decode(params, config, tokens, {slot: count}).values()
        shared = min(len(alone), len(cached[slot]))
        np.testing.assert_array_equal(alone[:shared], cached[slot][:shared])


def test_remat_policies_keep_less_and_less_and_leave_the_gradient_alone(
    compiled_here,
):
    _, config, params = oracle("llama", tie=True)
    tokens = jnp.arange(512)[None] % 97

    def loss(params, remat):
        return jnp.square(forward.hidden(params, config, tokens, remat=remat)).sum()

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    programs = {
        remat: gradient.lower(params, remat).compile()
        for remat in ("none", "dots", "attention", "block")
    }
    sizes = [p.memory_analysis().temp_size_in_bytes for p in programs.values()]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == len(sizes)
    plain = programs.pop("none")(params)
    for program in programs.values():
        for a, b in zip(*map(jax.tree.leaves, (plain, program(params))), strict=True):
            assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(a)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("Qwen/Qwen3-1.7B", 1_720_574_976),
        ("Qwen/Qwen3-4B", 4_022_468_096),
        ("Qwen/Qwen3-8B", 8_190_735_360),
        ("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512),
        ("allenai/Olmo-3-7B-Instruct", 7_298_011_136),
        ("google/gemma-3-1b-it", 999_885_952),
        ("google/gemma-3-4b-it", 3_880_263_168),
        ("HuggingFaceTB/SmolLM3-3B", 3_075_098_624),
        ("mistralai/Ministral-8B-Instruct-2410", 8_019_808_256),
    ],
)
def test_parameter_counts_are_the_published_ones(name, count):
    config = DecoderConfig.from_hf(PUBLISHED[name])
    shapes = jax.eval_shape(lambda: forward.init(config, jax.random.key(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_no_gradient_flows_from_a_logit_to_later_tokens():
    _, config, params = oracle("qwen2", tie=True)
    tokens = jnp.arange(12)[None]

    def logit_of_token_5(embed):
        logits = run(params | {"embed": embed}, config, tokens)
        return logits[0, 5, 0]

    untied = params | {"head": params["embed"].T}
    config = DecoderConfig.from_hf(config.to_hf() | {"tie_word_embeddings": False})
    params = untied
    reached = jnp.abs(jax.grad(logit_of_token_5)(params["embed"])).sum(-1) > 0
    assert reached[:12].tolist() == [True] * 6 + [False] * 6


def test_the_gradient_of_a_bfloat16_embedding_is_summed_in_float32(
    tiny_config, tiny_params
):
    """In bfloat16 a frequent token's would lose all but its largest summands.

    Read off the program: CPUs would sum in float32 either way, GPUs do not.
    """
    table = tiny_params["embed"].astype(jnp.bfloat16)
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(0, 3, (4, 512)))
    given = jnp.asarray(rng.normal(size=(4, 512, 32)), jnp.bfloat16)

    def value(table):
        x = embed({"embed": table}, tiny_config, tokens)
        return jnp.sum((x * given).astype(jnp.float32))

    sums = [
        equation.outvars[0].aval.dtype
        for equation in jax.make_jaxpr(jax.grad(value))(table).eqns
        if equation.primitive.name == "scatter-add"
    ]
    assert sums == [jnp.float32]
    expected = np.zeros(table.shape)
    np.add.at(expected, np.asarray(tokens), np.asarray(given, np.float64))
    found = jax.grad(value)(table)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(float), expected, rtol=2**-8, atol=1e-3)


def test_a_pattern_that_does_not_divide_the_layers_still_shares_its_programs():
    config = DecoderConfig.from_hf(PUBLISHED["google/gemma-3-1b-it"])
    assert (config.period, config.num_layers) == (6, 26)
    tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    text = run.lower(forward.shapes(config), config, tokens).as_text(debug_info=True)
    # The six of the pattern, and the last two: a tanh in each MLP.
    assert text.count("stablehlo.tanh") == 8


def test_config_survives_the_round_trip_and_refuses_what_it_cannot_compute():
    _, config, _ = oracle("qwen3", tie=True)
    assert DecoderConfig.from_hf(config.to_hf()) == config
    hf = config.to_hf()
    for change in (
        {"model_type": "gpt2"},
        {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0}},
        {"hidden_act": "gelu"},
        {"layer_types": ["chunked_attention"] * 4},
    ):
        with pytest.raises(UserError, match="not supported"):
            DecoderConfig.from_hf(hf | change)
    for change, words in (
        ({"head_dim": 15}, "head_dim=15"),
        ({"layer_types": ["sliding_attention"] * 4}, "sliding_window=None"),
        ({"layer_types": ["full_attention"] * 3}, "3 entries for 4 layers"),
        ({"num_key_value_heads": 3}, "must divide num_heads=4"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "factor is missing"),
        (
            {"model_type": "olmo3", "rope_parameters": {"rope_type": "default"}},
            "has neither full_attention nor",
        ),
    ):
        with pytest.raises(UserError, match=words) as caught:
            DecoderConfig.from_hf(hf | change)
        assert "\n" not in str(caught.value)
    del hf["hidden_size"]
    with pytest.raises(UserError, match="hidden_size"):
        DecoderConfig.from_hf(hf)
