"""Agreement of sampler and trainer: sums, metrics, alarm."""

import jax.numpy as jnp
import numpy as np

from rl.learner import agreement


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
