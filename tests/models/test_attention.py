"""Every supported cell of the backends' table against float64; the others refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import forward
from models.attention import CAN, choose_backend, row_attention
from models.errors import UserError

torch = pytest.importorskip("torch")

B, T, N, K, H = 2, 37, 6, 2, 8
SEGMENTS = np.array([[1] * 10 + [2] * 20 + [0] * 7, [5] * 3 + [1] * 30 + [2] * 4])
LENGTHS = np.array([29, 37], np.int32)
CELLS = {
    "causal": {},
    "window": {"window": 5},
    "segments": {"segment_ids": SEGMENTS},
    "segments and window": {"segment_ids": SEGMENTS, "window": 9},
    "lengths": {"lengths": LENGTHS},
    "lengths and window": {"lengths": LENGTHS, "window": 3},
}


def inputs():
    rng = np.random.default_rng(0)
    shapes = [(B, T, n, H) for n in (N, K, K, N)]
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def oracle(q, k, v, d_out, *, segment_ids=None, lengths=None, window=0):
    """Output and gradients in float64, by torch, from the formula."""
    length = q.shape[1]
    at = np.arange(length)
    if lengths is not None:
        segment_ids = at < lengths[:, None]
    if segment_ids is None:
        segment_ids = np.ones(q.shape[:2])
    seen = at[:, None] >= at
    if window:
        seen &= at[:, None] - at < window
    seen = seen & (segment_ids[:, :, None] == segment_ids[:, None])
    q, k, v = (
        torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (q, k, v)
    )
    keys, values = (x.repeat_interleave(N // K, dim=2) for x in (k, v))
    scores = torch.einsum("btnh,bsnh->bnts", q, keys) / H**0.5
    scores = scores.masked_fill(~torch.tensor(seen)[:, None], -torch.inf)
    out = torch.einsum("bnts,bsnh->btnh", scores.softmax(-1), values)
    (out * torch.tensor(d_out)).sum().backward()
    return [x.detach().numpy() for x in (out, q.grad, k.grad, v.grad)]


def values(function, q, k, v, d_out):
    """Output and gradients of our function."""
    out, pull = jax.vjp(function, q, k, v)
    return [out, *pull(jnp.asarray(d_out))]


@pytest.fixture
def cudnn_by_xla(monkeypatch):
    """JAX's other implementation of the call that goes to cuDNN, which needs a GPU."""
    genuine, calls = jax.nn.dot_product_attention, []

    def call(*args, implementation, **options):
        calls.append((implementation, options))
        return genuine(*args, **options, implementation="xla")

    monkeypatch.setattr(jax.nn, "dot_product_attention", call)
    return calls


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("backend", CAN)
def test_a_supported_cell_is_exact_and_another_refuses(backend, cell, cudnn_by_xla):
    options = CELLS[cell]
    needs = {"segment_ids": "segments"}
    needs = [needs.get(name, name) for name in options]
    choice = dict(needs=needs, head_dim=H, dtype=jnp.bfloat16, platform="gpu")
    if not CAN[backend].issuperset(needs):
        with pytest.raises(UserError, match="does not support segments: use one"):
            choose_backend(backend, **choice)
        return
    assert choose_backend(backend, **choice) == backend
    *qkv, d_out = inputs()
    if "lengths" in options:  # what lies behind them means nothing, forward or backward
        d_out = d_out * (np.arange(T) < LENGTHS[:, None])[..., None, None]
    expected = oracle(*qkv, d_out, **options)
    run = lambda q, k, v: row_attention(q, k, v, backend=backend, **options)  # noqa: E731
    got = jax.jit(lambda *x: values(run, *x))(*qkv, d_out)
    if "lengths" in options:
        valid = (np.arange(T) < LENGTHS[:, None])[..., None, None]
        got[0], expected[0] = got[0] * valid, expected[0] * valid
    for mine, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=3e-6, rtol=2e-5)
    if backend == "cudnn":
        ((implementation, said),) = cudnn_by_xla
        assert implementation == "cudnn" and said["is_causal"]
        assert not {"mask", "bias"} & said.keys()


def test_cudnn_says_in_one_line_what_it_cannot_do():
    able = dict(needs=[], head_dim=128, dtype=jnp.bfloat16, platform="gpu")
    assert choose_backend("cudnn", **able) == "cudnn"
    for change, words in (
        ({"platform": "cpu"}, "not on cpu"),
        ({"dtype": jnp.float32}, "not in 32"),
        ({"head_dim": 256}, "not of 256"),
        ({"head_dim": 12}, "not of 12"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            choose_backend("cudnn", **able | change)
        assert "\n" not in str(caught.value) and "use blocked" in str(caught.value)


def test_the_forward_pass_refuses_what_the_backend_cannot(tiny_config, tiny_params):
    tokens = np.ones((1, 8), int)
    with pytest.raises(UserError, match="does not support segments"):
        forward.hidden(
            tiny_params, tiny_config, tokens, segment_ids=tokens, attention="cudnn"
        )
    with pytest.raises(UserError, match="NVIDIA"):
        forward.hidden(tiny_params, tiny_config, tokens, attention="cudnn")


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN needs a GPU")
@pytest.mark.parametrize("cell", [c for c in CELLS if "segments" not in c])
def test_cudnn_agrees_on_a_gpu(cell):
    options = CELLS[cell]
    *qkv, _ = (jnp.asarray(np.tile(x, 8), jnp.bfloat16) for x in inputs())
    got, expected = (
        row_attention(*qkv, backend=backend, **options)
        for backend in ("cudnn", "reference")
    )
    valid = np.arange(T) < options.get("lengths", np.array([T, T]))[:, None]
    difference = np.abs(np.float32(got) - np.float32(expected)).max((-1, -2))
    assert (difference * valid).max() < 2e-2
