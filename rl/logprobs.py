"""Log-probabilities of given tokens, a chunk of the vocabulary product at a time."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from models import forward
from models.config import DecoderConfig

# Finite, so that 0 * log-prob of an impossible token is 0 and not NaN in the entropy.
IMPOSSIBLE = -1e30


def token_logprobs(
    params: dict[str, Any],
    config: DecoderConfig,
    hidden: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    *,
    chunk: int = 512,
    temperature: float = 1.0,
    valid_vocab: int | None = None,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Returns the log-prob of each target, and the entropy of its distribution.

    No buffer, forward or backward, has a vocabulary axis and more than ``chunk`` tokens
    of each row: chunks run one after the other and recompute their logits backward.

    Args:
      params: parameters; only the output embedding is read. It is cast to the dtype of
        ``hidden`` inside each chunk, so that with float32 parameters the gradient is
        summed over chunks in float32.
      config: the decoder's configuration.
      hidden: final hidden states, in the compute dtype.
      targets: the token whose log-prob is wanted at each position.
      chunk: tokens of each row whose logits exist at once.
      temperature: logits are divided by it, as the sampler does.
      valid_vocab: tokens from this id on (rows of the embedding that the tokenizer
        doesn't have) get no probability, as in the sampler.

    Returns:
      float32 log-probs and float32 entropies. The entropy carries no gradient.
    """
    batch, length, width = hidden.shape
    chunk = min(chunk, length)
    num_chunks = -(-length // chunk)
    pad = num_chunks * chunk - length
    hidden = jnp.pad(hidden, ((0, 0), (0, pad), (0, 0)))
    targets = jnp.pad(targets, ((0, 0), (0, pad)))
    hidden = hidden.reshape(batch, num_chunks, chunk, width).swapaxes(0, 1)
    targets = targets.reshape(batch, num_chunks, chunk).swapaxes(0, 1)
    name = "embed" if config.tie_embeddings else "head"
    output = {name: params[name]}

    @jax.checkpoint
    def one_chunk(args: tuple[Array, Array]) -> tuple[Array, Array]:
        h, target = args
        weights = jax.tree.map(lambda w: w.astype(h.dtype), output)
        logits = forward.unembed(weights, config, h) / temperature
        ids = jnp.arange(logits.shape[-1])
        if valid_vocab is not None and valid_vocab < logits.shape[-1]:
            logits = jnp.where(ids < valid_vocab, logits, IMPOSSIBLE)
        normalizer = jax.nn.logsumexp(logits, axis=-1)
        # A masked sum, not a gather: it fuses with the reduction, and stays local where
        # the vocabulary is cut over devices.
        chosen = jnp.sum(jnp.where(ids == target[..., None], logits, 0.0), axis=-1)
        fixed = jax.lax.stop_gradient(logits)
        log_p = fixed - jax.lax.stop_gradient(normalizer)[..., None]
        entropy = -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)
        return chosen - normalizer, entropy

    with jax.named_scope("token_logprobs"):
        logprobs, entropy = jax.lax.map(one_chunk, (hidden, targets))
    flat = (batch, num_chunks * chunk)
    logprobs = logprobs.swapaxes(0, 1).reshape(flat)[:, :length]
    entropy = entropy.swapaxes(0, 1).reshape(flat)[:, :length]
    return logprobs, entropy
