"""The model's arithmetic as a table: what stands for engines and updates.

A completion is a function of weights, prompt and seed; an update is one of the state
and the data; both through SHA-256, so that a lost or repeated rollout, a stale weight
or a step that is made twice changes everything that follows. Files are written and read
by the real code, but for a checkpoint's arrays (``arrays``).
"""

import asyncio
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from safetensors.numpy import load_file

from models import checksums, hf
from models.hf.layout import flatten, layout, unflatten
from retrieval.passages import Passage
from rl.engine.counters import COUNTERS
from rl.engine.programs import ProgramMemory
from rl.learner.train_state import TrainState
from rl.records import Completion, Request

FACT = re.compile(r"(\w+)'s (\w+) is (\w+)\.")


# --- weights --------------------------------------------------------------------------


def load(path, *, mesh=None, dtype=None) -> tuple[Any, dict]:
    """``hf.load`` without devices; what is read is compared with its hashes."""
    folder = hf.resolve(path)
    hf.verify(folder, lacking=True)
    config, tensors = hf.load_config(folder), load_file(folder / "model.safetensors")
    flat = {}
    for place, leaf in layout(config).items():
        parts = [tensors[name] for name in leaf.names(config.num_layers)]
        if leaf.transposed and len(leaf.hf_shape) == 2:
            parts = [part.T for part in parts]
        shape = leaf.full_shape(config.num_layers)
        flat[place] = np.ascontiguousarray(np.stack(parts)).reshape(shape)
    return config, unflatten(flat)


def digest(*values: Any) -> bytes:
    """Of arrays and of all that has one ``repr``."""
    found = hashlib.sha256()
    for value in values:
        for leaf in jax.tree.leaves(value):
            array = isinstance(leaf, np.ndarray)
            found.update(leaf.tobytes() if array else repr(leaf).encode())
        found.update(b"|")
    return found.digest()


def mark(params: Any) -> tuple[int, ...]:
    """What ``models.fingerprint`` is for."""
    return tuple(np.frombuffer(digest(params)[:8], np.uint32).tolist())


class States:
    """``rl.learner.train_state.States``."""

    def __init__(self, config: Any):
        self._shapes = unflatten(
            {
                place: jax.ShapeDtypeStruct(leaf.full_shape(config.num_layers), "f4")
                for place, leaf in layout(config).items()
            }
        )

    def init(self, params: Any) -> TrainState:
        nothing = jax.tree.map(np.zeros_like, params)
        zero = np.zeros((), np.int32)
        moments = optax.ScaleByAdamState(count=zero, mu=nothing, nu=nothing)
        return TrainState(params=params, opt_state=moments, step=zero, skipped=zero)

    def abstract(self) -> TrainState:
        one = jax.ShapeDtypeStruct((), "i4")
        same = self._shapes
        moments = optax.ScaleByAdamState(count=one, mu=same, nu=same)
        return TrainState(params=same, opt_state=moments, step=one, skipped=one)

    def park(self, state: TrainState) -> TrainState:
        return state

    def policy_params(self, state: TrainState) -> Any:
        return state.params

    def fingerprint(self, state: TrainState) -> tuple[int, ...]:
        return mark(state.params)

    def reference_params(self, params: Any) -> Any:
        return params


class Updater:
    """``rl.learner.update.Updater``: the next state is a hash of this one and the data.

    Args:
      at: told of each update.
    """

    at: Callable[[str], None] = staticmethod(lambda name: None)
    attention, compute_dtype = "none", "float32"

    def __init__(self, config: Any, *_: Any, **__: Any):
        self.states = States(config)

    def compile(self) -> None:
        pass

    def update(self, state, reference, datums) -> tuple[TrainState, dict[str, float]]:
        self.at("update")
        seed = digest(state, reference, [vars(datum) for datum in datums])
        random = np.random.default_rng(list(seed))

        def moved(leaf: np.ndarray) -> np.ndarray:
            return leaf + random.normal(size=leaf.shape).astype(leaf.dtype)

        state = jax.tree.map(moved, state)
        return state.replace(step=state.step + 1), {
            "loss/policy": int.from_bytes(seed[:4], "little") / 2**32,
            "loss/updates": 0.0,
        }


# --- completions ----------------------------------------------------------------------


class Engine:
    """``rl.engine.Engine``: what it says is a function of weights, prompt and seed."""

    attention = "none"

    def __init__(self, params, decoder, tokenizer, config, *, mesh=None, **lora):
        self.tokenizer, self.config, self.params = tokenizer, config, params
        self.set_params(params)
        self.done = 0

    def set_params(self, params: Any) -> None:
        self._mark = None if params is None else mark(params)

    def weights(self, adapter: int = 0) -> tuple[tuple[int, ...], int]:
        return self._mark, 0

    def compile(self) -> dict[str, ProgramMemory]:
        return {"table": ProgramMemory(arguments=0, temporary=0)}

    def stats(self) -> dict[str, float]:
        counted = {f"perf/{name}": 0.0 for name in (*COUNTERS, "decode_steps")}
        done = float(self.done)
        return counted | {"perf/decode_tokens": done, "perf/decode_seconds": done}

    def complete(self, request: Request) -> Completion:
        assert self._mark is not None, "an engine without weights was asked"
        draw = digest(self._mark, request.ids, request.seed64)
        text = _say(self.tokenizer.decode(list(request.ids)), draw)
        ids = tuple(self.tokenizer.encode(text, add_special_tokens=False))
        most = request.sampling.max_new_tokens
        ended = len(ids) <= most
        ids = ids[:most]
        self.done += len(ids)
        return Completion(
            ids=ids,
            logprobs=tuple(-((draw[i % 32] + 1) / 256) for i in range(len(ids))),
            text=text if ended else self.tokenizer.decode(ids),
            finish_reason="stop" if ended else "length",
            prompt_tokens=len(request.ids),
        )


def _say(prompt: str, draw: bytes) -> str:
    """A well-formed turn most of the time, by who is asked."""
    opening, *turns = prompt.split("<|im_start|>assistant")
    facts = FACT.findall(prompt) or [("Nobody", "name", "Nobody")]

    def fact(number: int) -> tuple[str, str, str]:
        return facts[draw[number] % len(facts)]

    asked = opening.split("<|im_start|>user", 1)[-1].strip()
    number = re.match(r"(?:Make a \w+ task|Answer) with (\d+) <search>", asked)
    if "Rubrics:" in asked:
        lines = [
            '<rubric priority="critical">Identifies that {}\'s {} is {}.</rubric>'
            for _ in range(3 + draw[0] % 3)
        ]
        found = "\n".join(line.format(*fact(i)) for i, line in enumerate(lines))
        return f"<rubrics>\n{found}\n</rubrics>"
    if not number:  # a gate, or a grade
        if draw[0] % 16 == 0:
            return "<think>hm</think>"
        gate = "Rubric:" not in asked
        score = draw[1] % 8 != 0 if gate else draw[1] % 2
        return f"<think>So.</think>\n<score>{int(score)}</score>"
    if len(turns) <= min(int(number[1]), 2) and draw[2] % 8:
        name = fact(3)[draw[4] % 2 * 2]
        return f"<think>Look up {name}.</think>\n<search>{name}</search>"
    if asked.startswith("Make"):
        blanks = ", ".join("{}'s {} is _".format(*fact(i)) for i in (5, 6, 7))
        return f"<think>Enough.</think>\n<task>Sum up: {blanks}.</task>"
    said = " ".join("{}'s {} is {}.".format(*fact(i)) for i in (8, 9))
    return f"<think>Enough.</think>\n<answer>{said}</answer>"


class EngineThread:
    """``rl.engine.thread.EngineThread`` on the event loop that asks.

    Attributes:
      seconds: how long the next completion takes.
    """

    seconds: Callable[[], float] = staticmethod(lambda: 0.0)

    def __init__(self, engine: Engine):
        self._engine, self._running = engine, set()
        self._when_idle: list[tuple[Future, Callable]] = []

    def complete(self, request: Request, *, watch: Any = None) -> Future:
        future: Future = Future()
        self._running.add(future)
        future.add_done_callback(self._ended)

        def finish() -> None:
            if future.set_running_or_notify_cancel():
                future.set_result(self._engine.complete(request))

        asyncio.get_running_loop().call_later(self.seconds(), finish)
        return future

    def call(self, fn: Callable, *, when_idle: bool = False) -> Future:
        future: Future = Future()
        self._when_idle.append((future, fn))
        if not (when_idle and self._running):
            self._ended(None)
        return future

    def _ended(self, future: Future | None) -> None:
        if future is not None:
            self._running.discard(future)
        while self._when_idle and not (future and self._running):
            waiting, fn = self._when_idle.pop(0)
            try:
                waiting.set_result(fn(self._engine))
            except Exception as error:
                waiting.set_exception(error)

    def close(self) -> None:
        pass


class Searcher:
    """``retrieval.search.Searcher``: the passage whose title is the query."""

    def __init__(self, passages: Any):
        self._known = {passage.title: passage for passage in passages}

    def search(self, queries, topk=None) -> list[list[tuple[Passage, float]]]:
        found = [self._known.get(query.strip()) for query in queries]
        return [[(passage, 1.0)] if passage else [] for passage in found]


def write_base(folder: Path, assets: Path) -> None:
    """The base model: the small world's tokenizer, with the fewest weights."""
    folder.mkdir(parents=True)
    for file in assets.iterdir():
        if file.suffix != ".safetensors" and file.name != checksums.NAME:
            shutil.copyfile(file, folder / file.name)
    config = json.loads((folder / "config.json").read_text())
    config |= {"num_hidden_layers": 1, "hidden_size": 2, "intermediate_size": 2}
    config |= {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 2}
    config |= {"layer_types": ["full_attention"], "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    decoder = hf.load_config(folder)
    random = np.random.default_rng(0)
    params = unflatten(
        {
            place: random.normal(size=leaf.full_shape(1)).astype("f4")
            for place, leaf in layout(decoder).items()
        }
    )
    made = folder.with_name("made")
    hf.save(made, decoder, params)
    shutil.copyfile(made / "model.safetensors", folder / "model.safetensors")
    shutil.rmtree(made)
    assert flatten(load(folder)[1]).keys() == flatten(params).keys()
