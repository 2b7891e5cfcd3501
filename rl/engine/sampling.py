"""Logits to tokens: seeds, truncation, and the log-prob that training compares with.

A token is drawn by inverting the cumulative distribution at one uniform number per row.
That number depends on the request's 64-bit seed and the token's position and on nothing
else, so slots, arrival order and retries do not change what is sampled.
"""

import hashlib

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

# The cumulative sum runs over sums of this many tokens, then inside one of them: two
# short sums instead of a long one over the vocabulary.
BUCKET = 128


def seed64(*parts: str | int) -> int:
    """A 64-bit seed that depends on every part and on their order."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        text = f"{type(part).__name__}:{part}".encode()
        digest.update(len(text).to_bytes(8, "little") + text)
    return int.from_bytes(digest.digest(), "little")


def row_keys(halves: UInt32[Array, "B 2"]) -> Array:
    """One key per row: the two 32-bit halves of its seed are the words of the key.

    (An integer given to ``jax.random.key`` would lose its upper half.)
    """
    return jax.random.wrap_key_data(halves, impl="threefry2x32")


def position_keys(keys: Array, positions: Int[Array, " B"]) -> Array:
    """The key of each row for the token at its position."""
    return jax.vmap(jax.random.fold_in)(keys, positions)


def sample(
    logits: Float[Array, "B V"],
    keys: Array,
    temperature: Float[Array, " B"],
    top_p: Float[Array, " B"],
    top_k: Int[Array, " B"],
    min_p: Float[Array, " B"],
    valid_vocab: int,
) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
    """Draw one token per row.

    Truncation is in the order top_k, top_p (of what top_k left), min_p; tokens that tie
    at a limit are all kept.

    Args:
      keys: from ``position_keys``.
      temperature: 0 takes the most probable token, the first of equals.
      valid_vocab: ids from here on are never drawn and have no probability; the model's
        vocabulary is often larger than the tokenizer's.

    Returns:
      tokens, and their log-probabilities, float32, under the whole (untruncated)
      distribution at that temperature (at temperature 1 where it is 0). Where a row has
      a NaN or an infinity, or no finite logit at all, its log-probability is NaN.
    """
    with jax.named_scope("sample"):
        greedy = temperature <= 0
        scaled = logits / jnp.where(greedy, 1.0, temperature)[:, None]
        # Before the softmax: such ids are no part of the policy, here or in training.
        real = jnp.arange(logits.shape[1]) < valid_vocab
        scaled = jnp.where(real, scaled, -jnp.inf)
        highest = scaled.max(-1, keepdims=True)
        mass = jnp.exp(scaled - highest)
        log_total = jnp.log(mass.sum(-1))
        top_p = jnp.where(greedy, 1.0, top_p)
        limit = _truncation(mass, top_p, jnp.where(greedy, 0, top_k))
        share = jnp.where(greedy, 1.0, min_p)
        limit = jnp.maximum(limit, share * mass.max(-1))
        allowed = jnp.where(mass >= limit[:, None], mass, 0.0)
        uniform = jax.vmap(jax.random.uniform)(keys)
        tokens = _invert(allowed, jnp.where(greedy, 0.0, uniform))
        # Without any mass, as beside a NaN, the search ends behind the vocabulary.
        tokens = jnp.minimum(tokens, valid_vocab - 1)
        chosen = jnp.take_along_axis(scaled, tokens[:, None], axis=1)
        return tokens, (chosen - highest)[:, 0] - log_total


def _truncation(mass, top_p, top_k):
    """Per row, the smallest mass that top_k and top_p keep; 0 keeps everything.

    Both limits are found by bisection over the bit patterns of the floats in [0, 1],
    which order like the floats: 30 passes, cheaper than sorting a vocabulary, and the
    same arithmetic for a row whatever the other rows ask for.
    """

    def bisect(holds, wanted):
        def body(_, bounds):
            low, high = bounds
            middle = (low + high + 1) // 2
            limit = jax.lax.bitcast_convert_type(middle, jnp.float32)
            enough = holds(jnp.where(mass >= limit[:, None], mass, 0.0))
            return jnp.where(enough, middle, low), jnp.where(enough, high, middle - 1)

        one = jax.lax.bitcast_convert_type(jnp.float32(1.0), jnp.int32)
        bounds = jnp.zeros(len(mass), jnp.int32), jnp.full(len(mass), one)
        low, _ = jax.lax.fori_loop(0, 30, body, bounds)
        limit = jax.lax.bitcast_convert_type(low, jnp.float32)
        return jnp.where(wanted, limit, 0.0)

    def by_count():
        return bisect(lambda kept: (kept > 0).sum(-1) >= top_k, top_k > 0)

    none = jnp.zeros(len(mass))
    limit = jax.lax.cond(jnp.any(top_k > 0), by_count, lambda: none)

    def by_mass():
        left = jnp.where(mass >= limit[:, None], mass, 0.0)
        target = top_p * left.sum(-1)
        return bisect(lambda kept: kept.sum(-1) >= target, top_p < 1)

    return jnp.maximum(limit, jax.lax.cond(jnp.any(top_p < 1), by_mass, lambda: none))


def _invert(mass, uniform):
    """The first token whose cumulative mass exceeds ``uniform`` times the total."""
    rows, vocab = mass.shape
    buckets = -(-vocab // BUCKET)
    mass = jnp.pad(mass, ((0, 0), (0, buckets * BUCKET - vocab)))
    mass = mass.reshape(rows, buckets, BUCKET)
    sums = mass.sum(-1)
    bucket, below = _pick(sums, uniform * sums.sum(-1))
    inside = jnp.take_along_axis(mass, bucket[:, None, None], axis=1)[:, 0]
    token, _ = _pick(inside, below)
    return bucket * BUCKET + token


def _pick(mass, target):
    """Index where the running sum passes ``target``, and the rest of ``target`` there.

    Rounding may put ``target`` at or past the end: then the last index with any mass.
    """
    running = jnp.cumsum(mass, axis=-1)
    size = mass.shape[-1]
    last = size - 1 - jnp.argmax(mass[:, ::-1] > 0, axis=-1)
    index = jnp.minimum((running <= target[:, None]).sum(-1), last)
    before = jnp.take_along_axis(running - mass, index[:, None], axis=1)[:, 0]
    return index, jnp.maximum(target - before, 0.0)
