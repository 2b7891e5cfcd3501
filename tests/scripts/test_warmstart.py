"""The warm start: its training, what is shipped of it, and its script."""

import dataclasses
import json
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import hf
from models.errors import UserError
from pretraining import exam, examples, recipe, transcripts, warmstart
from pretraining import tokenizer as small_tokenizer
from scope_jax.small_world import assets, world

TINY = recipe.WarmstartConfig(
    steps=4,
    cycles=(recipe.Cycle(steps=2, rate=0.5, weights=(("solver", 1.0),)),),
    decay_steps=2,
    warmup_steps=1,
    batch_tokens=704,
    hidden_size=16,
    intermediate_size=16,
    num_layers=1,
    num_heads=2,
)


@pytest.fixture(scope="module")
def small_world():
    return world.generate()


@pytest.fixture(scope="module")
def tokenizer():
    return hf.load_tokenizer(assets.model_path())


def run(config, tokenizer, state=None):
    _, params = warmstart.run(
        config,
        tokenizer,
        state_path=state,
        save_every=2,
        log=lambda line: None,
    )
    return params


def test_interrupted_run_ends_where_an_uninterrupted_one_does(
    tokenizer, tmp_path, monkeypatch
):
    whole = run(TINY, tokenizer)
    state = tmp_path / "new" / "state.npz"
    save = warmstart.save_state

    def save_and_stop(path, tree, meta):
        save(path, tree, meta)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(warmstart, "save_state", save_and_stop)
        run(TINY, tokenizer, state)
    resumed = run(TINY, tokenizer, state)
    for one, other in zip(
        jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_a_state_of_other_settings_is_refused_by_name(tokenizer, tmp_path):
    """Or a finished one of another seed would pass for this one's model."""
    state = tmp_path / "state.npz"
    done = run(TINY, tokenizer, state)
    for setting, said in (("seed", "0 -> 1"), ("steps", "4 -> 3")):
        other = dataclasses.replace(TINY, **{setting: int(said[-1])})
        with pytest.raises(UserError, match=rf"\({setting}: {said}\): .*--fresh"):
            run(other, tokenizer, state)
    with np.load(state) as stored:
        arrays = dict(stored)
    meta = json.loads(str(arrays["meta"]))
    del meta["settings"]
    np.savez(older := tmp_path / "older.npz", **arrays | {"meta": json.dumps(meta)})
    with pytest.raises(UserError, match=r"older\.npz: is of an older version.*--fresh"):
        run(TINY, tokenizer, older)
    again = run(TINY, tokenizer, state)
    jax.tree.map(np.testing.assert_array_equal, done, again)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: bytes(len(data)),
        lambda data: data[:2000] + bytes([data[2000] ^ 1]) + data[2001:],
    ],
)
def test_a_damaged_state_is_one_line(tokenizer, tmp_path, damage):
    run(TINY, tokenizer, state := tmp_path / "state.npz")
    state.write_bytes(damage(state.read_bytes()))
    with pytest.raises(UserError, match=r"state\.npz: not a state .*--fresh") as caught:
        run(TINY, tokenizer, state)
    assert "\n" not in str(caught.value)


def test_loss_of_packed_rows_is_that_of_single_conversations(small_world, tokenizer):
    encode = examples.ExampleEncoder(small_world, tokenizer, verdict_weight=3.0)
    script = transcripts.Script(small_world, np.random.default_rng(0))
    found = [encode(script.play("grader")) for _ in range(5)]
    decoder = warmstart.decoder_config(TINY, tokenizer)
    params = warmstart.forward.init(decoder, jax.random.key(0))

    def source(items):
        left = iter(items)
        return lambda: next(left, dataclasses.replace(items[0], ids=np.zeros(10**6)))

    packed = examples.pack(source(found), 2, 160)
    assert packed.segments.max() > 1
    total, weights = 0.0, 0.0
    for example in found:
        single = examples.pack(source([example]), 1, 160)
        weight = float(single.weight.sum())
        total += float(warmstart._loss(params, decoder, single)[0]) * weight
        weights += weight
    whole = float(warmstart._loss(params, decoder, packed)[0])
    np.testing.assert_allclose(whole, total / weights, rtol=1e-5)


def test_a_cycle_begins_when_the_one_before_has_come_to_rest():
    config = recipe.WarmstartConfig()
    rate = config.schedule(1.0)
    assert rate(0) == 0 and rate(config.warmup_steps) == 1
    starts = config.ends[:-1]
    assert starts[0] == config.steps and len(starts) == len(config.cycles)
    for start, cycle in zip(starts, config.cycles, strict=True):
        assert rate(start - 1) < 0.01 and rate(start) == 0
        peak = start + config.warmup_steps
        np.testing.assert_allclose(rate(peak), cycle.rate, rtol=1e-6)
        assert rate(peak - 10) < cycle.rate > rate(peak + 10)
        assert config.weights(start) == cycle.weights
        assert config.cycle(start) is cycle is not config.cycle(start - 1)
    assert 0 < rate(config.ends[-1] - 1) < 0.01
    assert config.weights(0) == config.job_weights
    assert config.weights(config.steps - 1) == config.finish_weights


def test_batches_are_a_function_of_seed_and_step(tokenizer):
    def batch(seed, step):
        config = dataclasses.replace(TINY, seed=seed)
        return warmstart.Batches(tokenizer, config)(step, 3).tokens

    np.testing.assert_array_equal(batch(0, 5), batch(0, 5))
    assert not np.array_equal(batch(0, 5), batch(0, 6))
    assert not np.array_equal(batch(0, 5), batch(1, 5))


def test_shipped_tokenizer_is_the_one_that_the_warm_start_makes(small_world, tokenizer):
    made = warmstart.make_tokenizer(small_world)
    assert made.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_shipped_model_fits_its_tokenizer_and_the_world(small_world, tokenizer):
    config, params = hf.load(assets.model_path())
    assert params["embed"].shape == (config.vocab_size, config.hidden_size)
    assert len(tokenizer) <= config.vocab_size
    assert tokenizer.chat_template == small_tokenizer.CHAT_TEMPLATE
    whole = small_tokenizer.whole_tokens(small_world)
    assert all(
        len(tokenizer.encode(text, add_special_tokens=False)) == 1 for text in whole
    )
    size = sum(file.stat().st_size for file in assets.model_path().iterdir())
    assert size < 4_000_000


def test_shipped_model_is_the_file_that_today_s_code_writes(tokenizer, tmp_path):
    """Or a rebuild with the same numbers would be another file."""
    config, params = hf.load(assets.model_path(), dtype="float32")
    hf.save(tmp_path / "m", config, params, tokenizer=tokenizer, dtype=jnp.float16)
    name = "model.safetensors"
    assert (tmp_path / "m" / name).read_bytes() == (
        assets.model_path() / name
    ).read_bytes()


def test_shipped_model_grades(tokenizer):
    config, params = hf.load(assets.model_path())
    only = dataclasses.replace(
        TINY, batch_tokens=8800, job_weights=(("grader", 1.0),), seed=99
    )
    batch = warmstart.Batches(tokenizer, only)(0, 3)
    right = np.asarray(warmstart._loss(params, config, batch)[1])
    share, count = warmstart.accuracies(batch, right)[
        list(transcripts.JOBS).index("grader")
    ]
    assert count > 100
    assert share / count > 0.9


def test_failures_name_each_number_that_is_out_of_bounds():
    good = {name: bar.least for name, bar in exam.REQUIRED.items()}
    assert exam.failures(good) == []
    careful = good | {"solver/true score": 0.8}
    assert exam.failures(careful) == [
        "solver/true score is 0.800, not between 0.4 and 0.5"
    ]
    del good["grader/met"]
    assert exam.failures(good) == ["grader/met is nan, not between 0.9 and 1"]


@pytest.mark.parametrize(("given", "used"), [(None, "cpu"), ("cuda", "cuda")])
def test_the_script_uses_the_cpu_unless_the_environment_says_otherwise(
    given, used, monkeypatch, tmp_path
):
    """A run may hold the accelerator, but on a free one this is much faster."""
    if given is None:
        monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    else:
        monkeypatch.setenv("JAX_PLATFORMS", given)
    calls = []
    monkeypatch.setattr(jax.config, "update", lambda *call: calls.append(call))
    script = Path(__file__).parents[2] / "scripts/warmstart.py"

    def no_further():
        raise UserError("as far as this test goes")

    monkeypatch.setattr(world, "generate", no_further)
    with pytest.raises(UserError, match="as far"):
        runpy.run_path(str(script))["main"](["--out", str(tmp_path / "model")])
    assert calls == [("jax_platforms", used)]
