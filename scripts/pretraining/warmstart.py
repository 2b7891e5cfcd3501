"""Supervised warm start of the small world's model on programmatic transcripts.

A Qwen3-shaped decoder of 0.8 million parameters learns all jobs of the method at once,
from transcripts that are new in every step, and in worlds with ever new facts: no
document of the world that it will be used in is shown, so nothing has to be held out
and nothing can be remembered. A curriculum (``LEVELS`` of
``scenes``) adds facts to each context whenever the model copies 85% of the names
correctly: with whole contexts from the start, it does not learn to copy in time.
Conversations are packed, several to a row, so that no time goes into padding.
"""

import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers, muon
from transformers import PreTrainedTokenizerFast

from models import forward
from models.config import DecoderConfig
from models.errors import DamagedError, UserError, first_line
from pretraining import tokenizer as small_tokenizer
from pretraining.examples import Batch, Example, ExampleEncoder, pack
from pretraining.recipe import WarmstartConfig
from pretraining.scenes import LEVELS
from pretraining.transcripts import JOBS, Script
from scope_jax.method import prompts
from scope_jax.method.types import TOOL_FORMATS
from scope_jax.small_world.world import World, generate
from scope_jax.system import stopping
from scope_jax.system.files import replacing

LOOKAHEAD = 2
STEPS_PER_WORLD = 8


def make_tokenizer(world: World) -> PreTrainedTokenizerFast:
    """The tokenizer of ``world``, its merges learnt from transcripts and prompts."""
    script = Script(world, np.random.default_rng(0))
    texts = []
    for _ in range(400):
        for job in (job for job in JOBS if job != "recite"):
            transcript = script.play(job)
            for message in transcript.messages:
                role, content = message["role"], message["content"]
                if role == "tool":
                    content = f"<tool_response>\n{content}\n</tool_response>"
                texts.append(f"{role}\n{content}")
    for tool_format in TOOL_FORMATS:
        found = prompts.load("small_world", tool_format)
        texts += [found.templates["grade_retry"].text, found.invalid_action()] * 20
    return small_tokenizer.train(world, texts)


def decoder_config(
    config: WarmstartConfig, tokenizer: PreTrainedTokenizerFast
) -> DecoderConfig:
    """The model's shape; the vocabulary is padded to a multiple of 32."""
    return DecoderConfig(
        model_type="qwen3",
        vocab_size=-(-len(tokenizer) // 32) * 32,
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_heads=config.num_heads,
        num_kv_heads=config.num_heads,
        head_dim=config.hidden_size // config.num_heads,
        rms_norm_eps=1e-6,
        tie_embeddings=True,
        max_position=2048,
    )


class Batches:
    """Batches by step, a function of (seed, step, level) alone."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, config: WarmstartConfig):
        self._config = config
        self._encoders = [
            ExampleEncoder(
                generate(),
                tokenizer,
                verdict_weight=config.verdict_weight,
                value_weight=config.value_weight,
                relation_weight=relation_weight,
            )
            for relation_weight in (1.0, config.relation_weight)
        ]

    def __call__(self, step: int, level: int) -> Batch:
        """The batch of ``step``, its contexts as large as ``level`` has them."""
        rng = np.random.default_rng([self._config.seed, step])
        facts = (self._config.seed, step // STEPS_PER_WORLD)
        script = Script(generate(facts_seed=facts), rng, LEVELS[level])
        cycle = self._config.cycle(step)
        if cycle and cycle.kinds:
            script.kinds = cycle.kinds
        if cycle:
            script.habits = dataclasses.replace(script.habits, complete=cycle.complete)
        length = self._config.row_tokens[level]
        finish = self._config.finishing(step)
        chosen = self._config.weights(step)
        scale = {"recite": self._config.recite_scale[level]}
        weights = np.asarray([w * scale.get(job, 1.0) for job, w in chosen])
        probabilities = weights / weights.sum()

        def example() -> Example:
            job, _ = chosen[rng.choice(len(chosen), p=probabilities)]
            return self._encoders[finish](script.play(job))

        return pack(example, self._config.batch_tokens // length, length)


_MATRICES = {
    **dict.fromkeys(("q", "k", "v"), MuonDimensionNumbers(1, (2, 3))),
    "o": MuonDimensionNumbers((1, 2), 3),
    **dict.fromkeys(("gate", "up", "down"), MuonDimensionNumbers(1, 2)),
}
"""Which axes of a matrix of all layers (axis 0) are its inputs and its outputs."""


def optimizer(config: WarmstartConfig) -> optax.GradientTransformation:
    """Muon for the layers' matrices, Adam for the rest; a global gradient clip.

    Muon reaches the same accuracies in about two thirds of Adam's steps here.
    """

    def matrices(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: _MATRICES.get(path[-1].key), params
        )

    return optax.chain(
        optax.clip_by_global_norm(1.0),
        muon(
            config.schedule(config.matrix_learning_rate),
            adam_learning_rate=config.schedule(config.learning_rate),
            adam_b2=0.98,
            muon_weight_dimension_numbers=matrices,
        ),
    )


def _loss(params, config: DecoderConfig, batch: Batch):
    states = forward.hidden(
        params,
        config,
        batch.tokens,
        positions=batch.positions,
        segment_ids=batch.segments,
    )
    states = states.reshape(-1, states.shape[-1])[batch.index]
    logits = forward.unembed(params, config, states)
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, batch.target)
    right = jnp.argmax(logits, -1) == batch.target
    loss = jnp.sum(nll * batch.weight) / jnp.maximum(jnp.sum(batch.weight), 1.0)
    return loss, right


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 3))
def train_step(config, warm: WarmstartConfig, params, opt_state, batch: Batch):
    """One optimizer step: (params, opt_state, loss, right [P])."""
    (loss, right), gradients = jax.value_and_grad(_loss, has_aux=True)(
        params, config, batch
    )
    updates, opt_state = optimizer(warm).update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss, right


def accuracies(batch: Batch, right: np.ndarray) -> np.ndarray:
    """(right, counted) of the key tokens of each job [jobs, 2]."""
    jobs = np.arange(len(JOBS))[:, None]
    mask = batch.key & (batch.weight > 0) & (batch.job == jobs)
    return np.stack([(mask & right).sum(1), mask.sum(1)], axis=1)


def save_state(path: Path, tree: Any, meta: dict[str, Any]) -> None:
    """Writes a state that a run can resume from; it appears whole or not at all."""
    leaves = {f"leaf{i}": np.asarray(x) for i, x in enumerate(jax.tree.leaves(tree))}
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, meta=json.dumps(meta), **leaves)


def load_state(path: Path, tree: Any) -> tuple[Any, dict[str, Any]]:
    """Reads what ``save_state`` wrote into the structure of ``tree``.

    Raises:
      DamagedError: it is something else.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            count = len(jax.tree.leaves(tree))
            leaves = [jnp.asarray(stored[f"leaf{i}"]) for i in range(count)]
            meta = dict(json.loads(str(stored["meta"])))
    except Exception as error:  # NumPy, zipfile and json raise different types
        why = f"not a state of the warm start ({first_line(error)[:120]})"
        remedy = "restore the file, or start again with --fresh"
        raise DamagedError(path, why, remedy) from error
    return jax.tree.unflatten(jax.tree.structure(tree), leaves), meta


def _settings(
    config: WarmstartConfig, tokenizer: PreTrainedTokenizerFast
) -> dict[str, Any]:
    """All that the numbers are a function of, as JSON has it."""
    text = tokenizer.backend_tokenizer.to_str().encode()
    digest = hashlib.sha256(text).hexdigest()
    return json.loads(json.dumps(dataclasses.asdict(config) | {"tokenizer": digest}))


def _refuse_others(path: Path, meta: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuses a state of other settings, or one that doesn't say of which it is.

    Raises:
      UserError: the settings that differ are named.
    """
    there = meta.get("settings")
    if there == wanted:
        return
    if not isinstance(there, dict):
        why = "is of an older version, which did not note its settings"
    else:
        shown = [
            f"{name}: {_short(there.get(name))} -> {_short(wanted.get(name))}"
            for name in {**wanted, **there}
            if there.get(name) != wanted.get(name)
        ]
        why = f"is a state of other settings ({'; '.join(shown)})"
    raise UserError(
        f"{path}: {why}: give the same options, another --out, or --fresh to delete it"
    )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}.."


def run(
    config: WarmstartConfig,
    tokenizer: PreTrainedTokenizerFast,
    *,
    state_path: Path | None = None,
    save_every: int = 100,
    log: Callable[[str], None] = print,
) -> tuple[DecoderConfig, Any]:
    """Trains, or resumes from ``state_path``.

    Args:
      config: settings.
      tokenizer: of the world.
      state_path: state to resume from, written every ``save_every`` steps.
      log: receives a line every 25 steps.

    Returns:
      The decoder's configuration and parameters.

    Raises:
      UserError: the state is damaged, or of other settings.
    """
    decoder = decoder_config(config, tokenizer)
    params = forward.init(
        decoder, jax.random.key(config.seed), jnp.float32, embed_std=config.embed_std
    )
    opt_state = optimizer(config).init(params)
    settings = _settings(config, tokenizer)
    meta: dict[str, Any] = {"step": 0, "promotions": [0], "settings": settings}
    if state_path is not None and state_path.exists():
        (params, opt_state), meta = load_state(state_path, (params, opt_state))
        _refuse_others(state_path, meta, settings)
    promotions: list[int] = meta["promotions"]

    def level(step: int) -> int:
        return sum(step >= start for start in promotions) - 1

    counted, losses, started = np.asarray(meta.get("counted", 0)), [], time.monotonic()
    batches = Batches(tokenizer, config)
    for step, batch in _prefetched(batches, meta["step"], config.ends[-1], level):
        params, opt_state, loss, right = train_step(
            decoder, config, params, opt_state, batch
        )
        counted = counted + accuracies(batch, np.asarray(right))
        losses.append(float(loss))
        done = step + 1
        if done % 25 == 0:
            found = dict(zip(JOBS, _rates(counted), strict=True))
            rates = " ".join(f"{job} {rate:.3f}" for job, rate in found.items())
            log(
                f"step {done} level {level(step)} loss {np.mean(losses):.4f} "
                f"{rates} {time.monotonic() - started:.0f}s"
            )
            ready = all(found[job] >= config.promote_at for job in ("solver", "rubric"))
            if ready and len(promotions) < len(LEVELS) and step >= promotions[-1]:
                promotions.append(done + LOOKAHEAD)
            counted, losses = np.asarray(0), []
        due = done % save_every == 0 or done == config.ends[-1] or stopping.requested()
        if state_path is not None and due:
            meta["step"], meta["counted"] = done, counted.tolist()
            save_state(state_path, (params, opt_state), meta)
        stopping.check()
    return decoder, params


def _prefetched(
    batches: Batches, first: int, end: int, level: Callable[[int], int]
) -> Iterator[tuple[int, Batch]]:
    """Steps with their batches, which a thread makes ``LOOKAHEAD`` steps ahead."""
    pending: dict[int, Future[Batch]] = {}
    with ThreadPoolExecutor(1) as pool:
        for step in range(first, end):
            for ahead in range(step, min(step + LOOKAHEAD + 1, end)):
                if ahead not in pending:
                    pending[ahead] = pool.submit(batches, ahead, level(ahead))
            yield step, pending.pop(step).result()


def _rates(counted: np.ndarray) -> np.ndarray:
    """Shares of (right, counted) pairs; NaN where nothing was counted."""
    with np.errstate(invalid="ignore"):
        return counted[:, 0] / counted[:, 1]
