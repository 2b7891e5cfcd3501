"""A decoder as pure functions: whole rows (training), prefill, and one decode step."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from models.attention import Backend, choose_backend, row_attention
from models.branches import Branches
from models.cache import Cache, read_pages, shape_of, write_chunks, write_tokens
from models.cached_attention import chunk_attention
from models.cached_backends import Chosen, token_attention_by
from models.config import DecoderConfig
from models.decoder import Block, norm, norm_init
from models.embedding import WEIGHTS_FIRST, embed, unembed
from models.remat import REMAT_POLICIES, Remat, recomputed
from models.rope import Angles, Rope, rope_table

Params = dict[str, Any]


def init(
    config: DecoderConfig,
    key: Array,
    dtype: Any = jnp.float32,
    *,
    embed_std: float = 0.02,
) -> Params:
    """Fresh parameters; every block tensor has a leading layer axis [L, ...]."""
    embed_key, head_key, blocks_key = jax.random.split(key, 3)
    width, vocab = config.hidden_size, config.vocab_size

    def init_block(block_key):
        x = jnp.zeros((1, 1, width))
        rope = rope_table(jnp.zeros((1, 1), int), config.head_dim, config.rope)
        passthrough = lambda q, k, v: (q, None)  # noqa: E731
        return Block(config).init(block_key, x, rope, passthrough)["params"]

    params = {
        "embed": embed_std * jax.random.normal(embed_key, (vocab, width)),
        "final_norm": norm_init(config)(embed_key, (width,)),
        "blocks": jax.vmap(init_block)(jax.random.split(blocks_key, config.num_layers)),
    }
    if not config.tie_embeddings:
        params["head"] = jax.random.normal(head_key, (width, vocab)) * width**-0.5
    return jax.tree.map(lambda x: x.astype(dtype), params)


def shapes(config: DecoderConfig) -> Params:
    """The parameters of ``init`` as ``ShapeDtypeStruct``; nothing is allocated."""
    return jax.eval_shape(lambda: init(config, jax.random.key(0)))


def size(config: DecoderConfig) -> int:
    """Numbers in the parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(shapes(config)))


def hidden(
    params: Params,
    config: DecoderConfig,
    tokens: Int[Array, "B T"],
    *,
    positions: Int[Array, "B T"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    branches: Branches | None = None,
    lengths: Int[Array, " B"] | None = None,
    remat: Remat = "none",
    attention: Backend = "auto",
) -> Float[Array, "B T D"]:
    """Hidden states after the final norm; causal within equal ``segment_ids``.

    Args:
      params: from ``init``, or from ``unstack``, whose layers are then unrolled: what
        an engine computes with need not be in memory twice.
      positions: rotary positions, by default 0..T-1 in every row.
      segment_ids: 0 is padding; by default one segment per row.
      branches: segments that go on from another one, with the same ``positions``.
      lengths: instead of segments: the tokens of each row, followed by padding.
      remat: what is kept for the backward pass: "none": everything; "block": only the
        residual stream between blocks; "attention": also what ``blocked`` attention
        needs in order not to run again; "dots": also all matrix products with weights.
      attention: backend, see ``models.attention``.

    Raises:
      UserError: if the backend can't do what is asked.
    """
    if positions is None:
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    needs = {
        "window": config.window > 0,
        "segments": segment_ids is not None,
        "branches": branches is not None,
        "lengths": lengths is not None,
    }
    rows = {"segment_ids": segment_ids, "branches": branches, "lengths": lengths}
    backend = choose_backend(
        attention,
        needs=[need for need, given in needs.items() if given],
        head_dim=config.head_dim,
        dtype=params["embed"].dtype,
        platform=jax.default_backend(),
    )
    blocks = params["blocks"]
    unrolled = isinstance(blocks, tuple)
    form = {"joined": unrolled, "weights_first": WEIGHTS_FIRST in params}
    layers = _layers(Block(config, **form, flat=True), positions, backend, rows, remat)
    x = embed(params, config, tokens)
    if unrolled:
        for run, block_params in zip(layers, blocks, strict=True):
            x = run(x, block_params)
        return norm(config, x, params["final_norm"])
    blocks, last = _in_periods(blocks, config)

    def body(x, period_params):
        for run in layers:
            x = run(x, period_params)
        return x, None

    x, _ = jax.lax.scan(body, x, blocks)
    for run in layers[: config.num_layers % config.period]:
        x = run(x, last)
    return norm(config, x, params["final_norm"])


def _layers(block: Block, positions, backend: Backend, rows, remat: Remat) -> list:
    """``hidden``'s layers as functions of the residual stream and their parameters.

    All of them, where they are unrolled; else those of one period, each with a window
    of its own, and with the parameters of the whole period.
    """
    config, unrolled = block.config, block.joined
    ropes = _rope_tables(config, positions)
    period = 1 if unrolled else config.period

    def layer(index: int):
        def attend(q, k, v):
            window = config.layer_window(index)
            return row_attention(q, k, v, backend=backend, window=window, **rows), None

        def run(x, period_params):
            # Sliced in here, or rematerialization would keep the sliced copy.
            block_params = period_params
            if period > 1:
                block_params = jax.tree.map(lambda p: p[index], period_params)
            with jax.named_scope("block"):
                rope = ropes[config.layer_rope(index)]
                return block.apply({"params": block_params}, x, rope, attend)[0]

        if remat == "none":
            return run
        if unrolled and remat == "block":
            return recomputed(run)
        return jax.checkpoint(run, policy=REMAT_POLICIES[remat])

    return [layer(index) for index in range(config.num_layers if unrolled else period)]


def _in_periods(blocks: Params, config: DecoderConfig) -> tuple[Params, Params]:
    """Whole periods of layers, with an axis for them, and the layers behind these."""
    period, last = config.period, blocks
    if left := config.num_layers % period:
        last = jax.tree.map(lambda p: p[-left:], blocks)
        blocks = jax.tree.map(lambda p: p[:-left], blocks)
    if period > 1:  # an axis of length 1 would cost XLA a copy of every weight
        blocks = jax.tree.map(lambda p: p.reshape(-1, period, *p.shape[1:]), blocks)
    return blocks, last


def forward(
    params: Params,
    config: DecoderConfig,
    tokens: Int[Array, "B T"],
    *,
    positions: Int[Array, "B T"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
) -> Float[Array, "B T V"]:
    """Logits of whole rows, float32; see ``hidden`` for the arguments."""
    states = hidden(
        params, config, tokens, positions=positions, segment_ids=segment_ids
    )
    return unembed(params, config, states)


def prefill(
    params: Params,
    config: DecoderConfig,
    cache: Cache,
    tokens: Int[Array, "R C"],
    tables: Int[Array, "R N"],
    starts: Int[Array, " R"],
    last: Int[Array, " R"] | None,
    *,
    select: Bool[Array, "R A"] | None = None,
) -> tuple[Cache, Float[Array, "R D"] | Float[Array, "R C D"]]:
    """Run chunks of prompts through the model and into the cache.

    Every layer writes all chunks before any of them reads, so consecutive chunks of one
    prompt may be rows of the same call.

    Args:
      params: from ``unstack``.
      tokens: chunks of C tokens; what follows a prompt's end is never attended to.
      tables: pages of each chunk's prompt, in order; where there is none, and
        everywhere in a row that is padding, the total number of pages.
      starts: position of each chunk's first token, a multiple of C, which divides the
        size of a page.
      last: index, within the chunk, of the token whose hidden state is wanted; None
        for those of all tokens.
      select: which of the A adapters among the parameters each chunk is computed
        with; None where there are none.

    Returns:
      the cache and the hidden state (after the final norm) of each chunk's ``last``.
    """
    rows, chunk = tokens.shape
    pages, size = shape_of(cache)
    positions = starts[:, None] + jnp.arange(chunk)
    own = tables[jnp.arange(rows), starts // size]
    live = own < pages
    own = jnp.where(live, own, pages + jnp.arange(rows))

    def attend(q, k, v, layer, window):
        layer = write_chunks(layer, k, v, own, starts % size)

        def read(index):
            return read_pages(layer, tables[:, index])

        out = chunk_attention(q, read, positions, live=live, block=size, window=window)
        return out, layer

    with jax.named_scope("prefill"):
        x = embed(params, config, tokens)
        x, cache = _cached_layers(params, config, x, positions, cache, attend, select)
        if last is not None:
            x = x[jnp.arange(rows), last]
        return cache, norm(config, x, params["final_norm"])


def decode_step(
    params: Params,
    config: DecoderConfig,
    cache: Cache,
    tokens: Int[Array, " B"],
    tables: Int[Array, "B N"],
    positions: Int[Array, " B"],
    active: Bool[Array, " B"],
    *,
    attention: Chosen = "blocks",
    select: Bool[Array, "B A"] | None = None,
) -> tuple[Cache, Float[Array, "B D"]]:
    """Append one token to every active row.

    Args:
      params: from ``unstack``.
      tables: pages of each row, in order, including that of the new token.
      positions: where the token goes: the number of tokens already in the row.
      active: the other rows are computed too, as the shape is fixed, but not written.
      attention: from ``cached_backends.choose``; the cache has its layout.
      select: which of the A adapters among the parameters each row has; None where
        there are none.

    Returns:
      the cache and the hidden states of the new tokens, after the final norm.
    """
    pages, size = shape_of(cache)
    rows = jnp.arange(len(tokens))
    own = jnp.where(active, tables[rows, positions // size], pages + rows)
    windows = {config.layer_window(index) for index in range(config.num_layers)}
    ways = {
        window: token_attention_by(
            attention, tables, positions, active, page=size, window=window
        )
        for window in windows
    }

    def attend(q, k, v, layer, window):
        layer = write_tokens(layer, k[:, 0], v[:, 0], own, positions % size)
        return ways[window](q[:, 0], layer)[:, None], layer

    with jax.named_scope("decode_step"):
        x = embed(params, config, tokens)[:, None]
        x, cache = _cached_layers(
            params, config, x, positions[:, None], cache, attend, select
        )
        return cache, norm(config, x[:, 0], params["final_norm"])


def _cached_layers(params, config, x, positions, cache, attend, select):
    """All blocks, unrolled; ``attend`` also takes and returns the layer's cache."""
    ropes = _rope_tables(config, positions)
    new_cache = []
    first = WEIGHTS_FIRST in params
    for index, (block_params, layer) in enumerate(
        zip(params["blocks"], cache, strict=True)
    ):
        window = config.layer_window(index)
        with jax.named_scope(f"block_{index}"):
            x, layer = Block(config, joined=True, weights_first=first).apply(
                {"params": block_params},
                x,
                ropes[config.layer_rope(index)],
                lambda q, k, v, layer=layer, window=window: attend(
                    q, k, v, layer, window
                ),
                select,
            )
        new_cache.append(layer)
    return x, tuple(new_cache)


def _rope_tables(
    config: DecoderConfig, positions: Int[Array, "B T"]
) -> dict[Rope | None, Angles | None]:
    """What rotates each kind of layer, computed once; nothing where none is needed."""
    # In layer order: a set's order differs between processes, and so would the HLO.
    ropes = dict.fromkeys(map(config.layer_rope, range(config.num_layers)))
    return {
        rope: rope and rope_table(positions, config.head_dim, rope) for rope in ropes
    }
