"""Agreement of sampler and trainer: sums, metrics, alarm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import gpu_parts
from models import hf
from models.sharding import make_mesh
from rl.engine.config import EngineConfig
from rl.engine.engine import Engine
from rl.engine.sampling import seed64
from rl.learner import agreement
from rl.learner.config import UpdateConfig
from rl.learner.losses import LossConfig
from rl.learner.optimizer import OptimizerConfig
from rl.learner.update import Updater
from rl.records import Request, SamplingParams
from scope_jax.small_world.assets import model_path


def test_metrics_are_over_sampled_tokens_only():
    trainer = jnp.array([[-1.0, -2.0, -3.0]])
    sampler = jnp.array([[-1.1, jnp.nan, -2.7]])
    sums = agreement.token_sums(trainer, sampler, jnp.array([[1, 0, 1]]))
    metrics = agreement.summarize(sums)
    np.testing.assert_allclose(metrics["agree/mean"], 0.2, rtol=1e-5)
    np.testing.assert_allclose(metrics["agree/max"], 0.3, rtol=1e-5)
    want = (np.exp(0.1) + np.exp(0.3)) / 2
    np.testing.assert_allclose(metrics["agree/prob_error"], want, rtol=1e-5)


def test_alarm_is_one_line_above_the_threshold_and_silent_below():
    fine = {"agree/prob_error": 1.01, "agree/max": 0.1}
    assert agreement.alarm(fine) is None
    for error in (1.2, float("nan")):
        line = agreement.alarm({"agree/prob_error": error, "agree/max": 3.0})
        assert line and "\n" not in line and "1.05" in line


def test_nothing_sampled_is_perfect_agreement():
    x = jnp.zeros((1, 3))
    metrics = agreement.summarize(agreement.token_sums(x, x, jnp.zeros((1, 3))))
    assert metrics["agree/prob_error"] == 1.0
    assert agreement.alarm(metrics) is None


@pytest.mark.usefixtures("compiled_quickly")
def test_a_trained_model_in_16_bits_on_a_cpu_stays_below_the_alarm():
    config, params = hf.load(model_path(), dtype="bfloat16")
    tokenizer = hf.load_tokenizer(model_path())
    sizes = EngineConfig(slots=8, max_length=192, prefill_rows=8)
    engine = Engine(params, config, tokenizer, sizes)
    assert engine.dtype == "bfloat16"
    texts = [f"Which river flows through town {n}, and who says so?" for n in range(8)]
    requests = [
        Request(
            ids=tuple(tokenizer.encode(text)),
            sampling=SamplingParams(max_new_tokens=48),
            seed64=seed64("agree", index),
        )
        for index, text in enumerate(texts)
    ]
    done = engine.generate(requests)
    updater = Updater(
        config,
        LossConfig(),
        OptimizerConfig(),
        UpdateConfig(length=192, rows=1, capacity=8, compute_dtype="bfloat16"),
        make_mesh(),
        valid_vocab=hf.vocab_rows(tokenizer),
    )
    masters = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    datums = [
        gpu_parts.datum_of(index, request.ids, completion)
        for index, (request, completion) in enumerate(zip(requests, done, strict=True))
    ]
    metrics = gpu_parts.compare(updater, masters, datums)
    assert metrics["tokens"] == sum(len(one.ids) for one in done) > 100
    # Rounding: not nothing, and far below.
    assert 1 < metrics["agree/prob_error"] < 1.03 < agreement.ALARM
