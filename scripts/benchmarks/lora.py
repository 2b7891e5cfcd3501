"""Adapters beside whole weights: update, memory, and several adapters in one batch.

The shape is Qwen2.5-0.5B's layer, fewer of them, and as much less vocabulary. Updates
of n and of 2n micro-batches take turns; their difference is n micro-batches without the
optimizer, which is given apart. Adapters are trained on the very weights that an engine
holds. Decoding gives each of its rows one of the adapters in turn, and its time is that
of whole requests. On a CPU, seconds are the processor's: what else a shared machine
does counts for nothing.
"""

import argparse
import statistics
import time
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import harness, shapes
from benchmarks.update import LOSS, OPTIMIZER, full_rows
from models import lora, sharding
from models.config import DecoderConfig
from models.hf.published import PUBLISHED
from models.lora import LoraConfig
from models.unstacked import unstack
from rl.engine.config import EngineConfig
from rl.engine.engine import Engine
from rl.engine.sampling import seed64
from rl.learner.config import UpdateConfig
from rl.learner.update import Updater
from rl.records import Request, SamplingParams

WHOLE = DecoderConfig.from_hf(PUBLISHED["Qwen/Qwen2.5-0.5B-Instruct"])
ROWS = 8
"""Sequences that are decoded together."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--layers", type=int, default=4, help="of 24")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--adapters", type=int, default=4, help="in one batch")
    parser.add_argument("--length", type=int, default=512, help="tokens of a row")
    parser.add_argument("--rows", type=int, default=2, help="rows of a micro-batch")
    parser.add_argument("--micro", type=int, default=4, help="micro-batches, and twice")
    parser.add_argument("--new", type=int, default=64, help="tokens decoded per row")


def run(args: argparse.Namespace) -> harness.Result:
    """Tokens per second of the update without recomputation; the rest in the notes."""
    share = args.layers / WHOLE.num_layers
    config = replace(
        WHOLE,
        num_layers=args.layers,
        vocab_size=round(WHOLE.vocab_size * share),
    )
    dtype = shapes.usual_dtype()
    params = shapes.random_params(config, dtype)
    settings = LoraConfig(rank=args.rank)
    notes: dict[str, Any] = {
        "parameters": sum(x.size for x in jax.tree.leaves(params)),
        "numbers of an adapter": lora.size(config, settings),
    }
    seconds: dict[str, dict[str, list[float]]] = {}
    for remat in ("none", "block"):
        seconds[remat] = _updates(config, settings, params, remat, args, notes)
    notes["decoding"] = _decode(config, settings, params, args)
    tokens = args.micro * args.rows * args.length
    return harness.Result(
        what=f"lora: {args.micro} micro-batches of {args.rows} x {args.length} tokens, "
        f"all in the loss, {args.layers} layers of Qwen2.5-0.5B, rank {args.rank}, "
        f"{jnp.dtype(dtype).name}, without recomputation and without the optimizer",
        unit="tokens",
        amount=tokens,
        seconds={"ours": seconds["none"]["adapters"], "full": seconds["none"]["full"]},
        notes=notes,
    )


def _updates(
    config: DecoderConfig,
    settings: LoraConfig,
    params: Any,
    remat: str,
    args: argparse.Namespace,
    notes: dict[str, Any],
) -> dict[str, list[float]]:
    """Seconds of the micro-batches, by what is trained; the rest in ``notes``."""
    sides = {
        "full": _Side(config, None, params, remat, args),
        "adapters": _Side(config, settings, params, remat, args),
    }
    found: dict[str, list[float]] = {name: [] for name in sides}
    rest: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(args.repeats):
        for name, side in sides.items():
            once, twice = side.step(1), side.step(2)
            found[name].append(twice - once)
            rest[name].append(2 * once - twice)
    tokens = args.micro * args.rows * args.length
    ratios = [f / a for f, a in zip(found["full"], found["adapters"], strict=True)]
    memory = {name: side.memory() for name, side in sides.items()}
    held = {name: one["held"] for name, one in memory.items()}
    notes[f"update, remat {remat}"] = {
        "adapters over full, tokens/s": _spread(ratios),
        "optimizer and the rest, seconds": {n: _spread(s) for n, s in rest.items()},
        "tokens/s": {
            name: _spread([tokens / one for one in each])
            for name, each in found.items()
        },
        "bytes": memory,
        "parameters, gradients and optimizer, of full": held["adapters"] / held["full"],
    }
    return found


class _Side:
    """Updates of one kind, from the weights that the one before left."""

    def __init__(self, config, settings, params, remat, args):
        mesh = sharding.make_mesh()
        shape = UpdateConfig(
            length=args.length,
            rows=args.rows,
            capacity=2 * args.micro,
            logit_chunk=min(256, args.length),
            remat=remat,
        )
        self.base: Any = {}
        if settings:
            platform = jax.devices()[0].platform
            base = unstack(params, config, weights_first=platform == "cpu")
            self.base = jax.device_put(base, sharding.replicated(mesh))
            params = lora.init(config, settings, jax.random.key(0))
        options = {"lora": settings, "base": self.base or None}
        self.updater = Updater(config, LOSS, OPTIMIZER, shape, mesh, **options)
        self.state = self.updater.states.init(params)
        rows = args.rows * args.micro
        self.batches = {
            times: self.updater.pack(
                full_rows(config.vocab_size, times * rows, args.length)
            )
            for times in (1, 2)
        }
        self.step(1)  # compiles

    def step(self, times: int) -> float:
        """Seconds of an update of ``times`` as many micro-batches as were asked for."""

        started = _clock()
        self.state, _ = self.updater.update_mini_batch(
            self.state, self.base, self.batches[times]
        )
        jax.block_until_ready(self.state)
        return _clock() - started

    def memory(self) -> dict[str, int]:
        """Bytes of parameters, gradients and moments, and what the program adds."""
        masters, moments = self.state.params, self.state.opt_state
        numbers = sum(x.size for x in jax.tree.leaves(masters))
        arrays = jax.tree.leaves((masters, moments, self.base))
        [program] = self.updater.programs.values()
        return {
            "held": sum(x.nbytes for x in arrays) + 4 * numbers,
            "temporary": program.memory_analysis().temp_size_in_bytes,
        }


def _decode(
    config: DecoderConfig, settings: LoraConfig, params: Any, args: argparse.Namespace
) -> dict[str, Any]:
    """Tokens per second of decoding without adapters and with several in one batch."""
    sizes = EngineConfig(slots=ROWS, max_length=64 + args.new, prefill_rows=2)
    names = shapes.Ids(config.vocab_size)
    plain = Engine(params, config, names, sizes)
    several = Engine(
        params, config, names, sizes, lora=settings, adapters=args.adapters
    )
    key = jax.random.key(1)
    for number in range(1, args.adapters + 1):
        several.set_adapter(
            number, lora.init(config, settings, jax.random.fold_in(key, number))
        )

    def speed(engine: Engine, adapters: int) -> float:
        started = _clock()
        done = engine.generate(
            [
                Request(
                    ids=tuple(range(row, row + 16)),
                    sampling=SamplingParams(max_new_tokens=args.new),
                    seed64=seed64("lora", row),
                    adapter=1 + row % adapters if adapters else 0,
                )
                for row in range(ROWS)
            ]
        )
        return sum(len(one.ids) for one in done) / (_clock() - started)

    found: dict[str, list[float]] = {"none": [], "several": []}
    for engine, adapters in ((plain, 0), (several, args.adapters)):
        speed(engine, adapters)
    for _ in range(args.repeats):
        found["none"].append(speed(plain, 0))
        found["several"].append(speed(several, args.adapters))
    ratios = [b / a for a, b in zip(found["none"], found["several"], strict=True)]
    return {
        f"{args.adapters} adapters over none, tokens/s of {ROWS} rows": _spread(ratios),
        "tokens/s": {name: _spread(each) for name, each in found.items()},
    }


def _clock() -> float:
    on_cpu = jax.devices()[0].platform == "cpu"
    return time.process_time() if on_cpu else time.perf_counter()


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 4),
        "lowest": round(min(values), 4),
        "highest": round(max(values), 4),
    }
