"""Log-probabilities of given tokens, a chunk of the vocabulary product at a time."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from models import forward
from models.config import DecoderConfig

# Finite, so that 0 * log-prob of an impossible token is 0 and not NaN in the entropy.
IMPOSSIBLE = -1e30


def token_logprobs(
    params: dict[str, Any],
    config: DecoderConfig,
    hidden: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    wanted: Bool[Array, "B T"],
    *,
    chunk: int = 512,
    temperature: float = 1.0,
    valid_vocab: int | None = None,
    entropy_gradient: bool = False,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Returns the log-prob of each target, and the entropy of its distribution.

    No buffer, forward or backward, has a vocabulary axis and more than ``chunk`` tokens
    of each row: chunks run one after the other and recompute their logits backward.
    Wanted positions of a row are first moved to its front, and the chunks after them
    are skipped: prompts and search results cost no vocabulary product.

    Args:
      params: parameters; only the output embedding is read, and cast to the dtype of
        ``hidden``. Its gradient is summed over chunks in float32.
      config: the decoder's configuration.
      hidden: final hidden states, in the compute dtype.
      targets: the token whose log-prob is computed at each position.
      wanted: elsewhere the results are 0.
      chunk: tokens of each row whose logits exist at once.
      temperature: logits are divided by it, as in the sampler.
      valid_vocab: tokens from this id on (which the tokenizer doesn't have) get no
        probability, as in the sampler.
      entropy_gradient: whether the entropy carries a gradient; else it is a constant,
        which costs the backward pass nothing.

    Returns:
      float32 log-probs and float32 entropies.

    Formula:
      [entropy bonus] loss_t - entropy_coefficient H(pi_t)

    References:
      [entropy bonus] Williams and Peng (1991); Mnih et al., A3C (2016)
    """
    batch, length, width = hidden.shape
    chunk = min(chunk, length)
    num_chunks = -(-length // chunk)
    together = jnp.argsort(~wanted, axis=1, stable=True)
    hidden = jnp.take_along_axis(hidden, together[..., None], axis=1)
    targets = jnp.take_along_axis(targets, together, axis=1)

    pad = num_chunks * chunk - length
    hidden = jnp.pad(hidden, ((0, 0), (0, pad), (0, 0)))
    targets = jnp.pad(targets, ((0, 0), (0, pad)))
    hidden = hidden.reshape(batch, num_chunks, chunk, width).swapaxes(0, 1)
    targets = targets.reshape(batch, num_chunks, chunk).swapaxes(0, 1)
    name = "embed" if config.tie_embeddings else "head"
    count = -(-wanted.sum(1).max() // chunk)
    with jax.named_scope("token_logprobs"):
        head = _Head(config, temperature, valid_vocab, entropy_gradient)
        both = _chunks(head, params[name], hidden, targets, count)
    back = jnp.argsort(together, axis=1)

    def in_place(x: Array) -> Array:
        x = x.swapaxes(0, 1).reshape(batch, num_chunks * chunk)[:, :length]
        return jnp.where(wanted, jnp.take_along_axis(x, back, axis=1), 0.0)

    return in_place(both[0]), in_place(both[1])


class _Head(NamedTuple):
    """How logits are computed from a chunk's hidden states; static."""

    config: DecoderConfig
    temperature: float
    valid_vocab: int | None
    entropy_gradient: bool

    def logits(self, weight: Array, hidden: Array) -> Array:
        name = "embed" if self.config.tie_embeddings else "head"
        weight = weight.astype(hidden.dtype)
        logits = forward.unembed({name: weight}, self.config, hidden)
        logits = logits / self.temperature
        vocab = logits.shape[-1]
        if self.valid_vocab is not None and self.valid_vocab < vocab:
            real = jnp.arange(vocab) < self.valid_vocab
            logits = jnp.where(real, logits, IMPOSSIBLE)
        return logits

    def slope(self, logits: Array, given: Array) -> Array:
        """``given`` for the logits that ``logits`` were before they were bent."""
        if not (cap := self.config.final_softcap):
            return given
        # An impossible token has none; the square of its logit would overflow.
        bent = jnp.clip(logits * self.temperature / cap, -1, 1)
        return given * (1 - jnp.square(bent))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunks(
    head: _Head,
    weight: Float[Array, "..."],
    hidden: Float[Array, "C B S D"],
    targets: Int[Array, "C B S"],
    count: Int[Array, ""],
) -> tuple[Float[Array, "C B S"], Float[Array, "C B S"]]:
    """Log-probs and entropies of the first ``count`` chunks, one after the other."""
    return _chunks_forward(head, weight, hidden, targets, count)[0]


def _chunks_forward(head, weight, hidden, targets, count):
    def body(i, carry):
        logprobs, entropies, normalizers = carry
        logits = head.logits(weight, hidden[i])
        normalizer = jax.nn.logsumexp(logits, axis=-1)
        # A masked sum, not a gather: it fuses with the reduction, and stays local where
        # the vocabulary is sharded.
        chosen = jnp.sum(jnp.where(_one_hot(targets[i], logits), logits, 0.0), axis=-1)
        log_p = logits - normalizer[..., None]
        entropy = -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)
        return (
            logprobs.at[i].set(chosen - normalizer),
            entropies.at[i].set(entropy),
            normalizers.at[i].set(normalizer),
        )

    zeros = jnp.zeros(targets.shape, jnp.float32)
    logprobs, entropies, normalizers = jax.lax.fori_loop(
        0, count, body, (zeros, zeros, zeros)
    )
    saved = (weight, hidden, targets, count, normalizers)
    return (logprobs, entropies), saved


def _chunks_backward(head, saved, cotangents):
    weight, hidden, targets, count, normalizers = saved
    given, of_entropy = cotangents

    tied = head.config.tie_embeddings
    backward = "BSV,VD->BSD" if tied else "BSV,DV->BSD"

    def body(i, carry):
        d_weight, d_hidden = carry
        logits = head.logits(weight, hidden[i])
        p = jnp.exp(logits - normalizers[i][..., None])
        d_logits = given[i][..., None] * (_one_hot(targets[i], logits) - p)
        if head.entropy_gradient:
            log_p = logits - normalizers[i][..., None]
            entropy = -jnp.sum(p * log_p, axis=-1, keepdims=True)
            d_logits -= of_entropy[i][..., None] * p * (log_p + entropy)
        d_logits = head.slope(logits, d_logits / head.temperature).astype(hidden.dtype)
        d_h = jnp.einsum(backward, d_logits, weight.astype(hidden.dtype))
        # [D, V] for tied weights as well: twice as fast on a CPU as [V, D].
        d_w = jnp.einsum(
            "BSD,BSV->DV", hidden[i], d_logits, preferred_element_type=jnp.float32
        )
        return d_weight + d_w, d_hidden.at[i].set(d_h)

    shape = weight.shape[::-1] if tied else weight.shape
    start = (jnp.zeros(shape, jnp.float32), jnp.zeros_like(hidden))
    d_weight, d_hidden = jax.lax.fori_loop(0, count, body, start)
    d_weight = d_weight.T if tied else d_weight
    return d_weight.astype(weight.dtype), d_hidden, None, None


def _one_hot(targets: Int[Array, "B S"], logits: Float[Array, "B S V"]) -> Array:
    return jnp.arange(logits.shape[-1]) == targets[..., None]


_chunks.defvjp(_chunks_forward, _chunks_backward)
