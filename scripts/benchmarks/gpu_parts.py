"""The parts of ``bench.py gpu``: generators of what they have found so far.

Each takes ``toy``: then its shapes are small enough for a CPU; nothing else differs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import generation, harness, search, shapes, steady, update, workloads
from models.config import DecoderConfig
from models.errors import UserError
from models.sharding import make_mesh
from retrieval import approximate
from retrieval.index import Index
from rl.engine.engine import Engine
from rl.learner import agreement
from rl.learner.config import UpdateConfig
from rl.learner.update import Updater
from rl.records import Completion, Datum
from scope_jax.run import memory

Found = Iterator[dict[str, Any]]

BYTES = 0.71
"""Goal for the share of the data sheet's bytes/s in decoding 32 rows or more."""
MFU = 0.40
"""Goal for the update's share of the data sheet's FLOP/s."""
ALARM = agreement.ALARM
SHAPE = "qwen3_1_7b"
TRAIN = Path(__file__).resolve().parents[1] / "train.py"


def machine(*, toy: bool) -> Found:
    """What the figures are measured on."""
    yield {"machine": harness.machine()}
    copied = steady.copy_speed(2**22 if toy else 2**31)
    yield {"measured copy, bytes/s": copied, "data sheet": _sheet()}


def tiny(*, toy: bool) -> Found:
    """One iteration of `tiny`, compiling included; as a toy, only its plan."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(TRAIN), "--config", "tiny", "--iterations", "1"]
        command += ["--evaluation.count", "0", "--run", folder]
        started = time.monotonic()
        done = subprocess.run(
            [*command, *(["--plan"] if toy else [])], capture_output=True, text=True
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
            raise RuntimeError(f"exit code {done.returncode}: {last}")
        found: dict[str, Any] = {"seconds": round(time.monotonic() - started, 1)}
        if not toy:
            lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
            steps = [json.loads(line) for line in lines]
            errors = [s["agree/prob_error"] for s in steps if "agree/prob_error" in s]
            found["agree/prob_error, worst step"] = max(errors)
        yield {"tiny": found}


def decode(*, toy: bool, backend: str) -> Found:
    """Bytes per second of decoding, and FLOP/s of prefill; most useful first."""
    config, lengths, new = _shape(toy), (1024, 2048), steady.NEW
    counts: tuple[int, ...] = (32, 64, 8)
    if toy:
        counts, lengths, new = (2,), (96,), 8
    args = _arguments(toy, backend)
    params = shapes.random_params(config, shapes.usual_dtype())
    copied = steady.copy_speed(2**22 if toy else 2**31)

    def make(slots: int) -> Engine:
        return steady.engine_of(params, config, slots, lengths, args, new=new)

    with ThreadPoolExecutor() as pool:  # compiling takes most of the time
        engines = pool.map(make, counts)
        for slots, engine in zip(counts, engines, strict=True):
            for length in lengths[::-1]:
                _, said = steady.measure(engine, params, length, copied, 2, new=new)
                said |= _memory(engine, params["embed"].dtype.itemsize)
                yield {f"{slots} slots, {length} tokens": said}


def _memory(engine: Engine, width: int) -> dict[str, Any]:
    """The plan's bytes beside those of the engine's largest program."""
    kinds = memory.engine(
        engine.sampler.config, engine.config, devices=1, compute_bytes=width
    )
    taken = max(p.arguments + p.temporary for p in engine.compile().values())
    planned = memory.total(kinds)
    return {
        "memory by the plan, bytes": planned,
        "memory of the largest program, bytes": taken,
        "plan over program": planned / taken,
    }


def update_flops(*, toy: bool) -> Found:
    """MFU of the update, and its memory beside the plan."""
    parser = argparse.ArgumentParser()
    harness.add_arguments(parser)
    update.add_arguments(parser)
    options = ["--shape", SHAPE, "--rows", "2", "--micro", "4", "--repeats", "3"]
    if toy:
        options[2:] = ["--rows", "1", "--micro", "2", "--repeats", "1"]
        options += ["--length", "64", "--logit-chunk", "32"]
    result = update.on_an_accelerator(_shape(toy), parser.parse_args(options))
    rate = result.rates()["ours"]["median"]
    yield {"update": {"tokens/s": rate, **result.notes}}


def agree(*, toy: bool) -> Found:
    """Log-probs of the updater beside the sampler's, both in bfloat16, per backend."""
    config = _shape(toy)
    rows, length, new = (4, 64, 8) if toy else (16, 512, 64)
    params = shapes.random_params(config, jnp.bfloat16)
    shape = UpdateConfig(
        length=length,
        rows=1,
        capacity=rows,
        logit_chunk=min(512, length),
        compute_dtype="bfloat16",
    )
    updater = Updater(config, update.LOSS, update.OPTIMIZER, shape, make_mesh())
    masters = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    work = workloads.steady(config.vocab_size, rows=rows, length=length - new, new=new)
    for backend in ("blocks", "pallas", "fa3"):
        try:
            engine = generation.make_engine(
                params, config, work, rows, _arguments(toy, backend)
            )
        except UserError as error:
            yield {backend: {"refused": str(error)}}
            continue
        done = engine.generate(generation.requests(work))
        del engine
        datums = [
            datum_of(index, one.prompt, completion)
            for index, (one, completion) in enumerate(zip(work, done, strict=True))
        ]
        yield {backend: compare(updater, masters, datums)}


def datum_of(index: int, prompt: tuple[int, ...], done: Completion) -> Datum:
    """A completion, as an update would see it."""
    mask = (0,) * len(prompt) + (1,) * len(done.ids)
    return Datum(
        uid=f"1/benchmark/1/{index}/0",
        turn=0,
        ids=prompt + done.ids,
        loss_mask=mask,
        sampled_mask=mask,
        logprobs=(0.0,) * len(prompt) + done.logprobs,
        advantage=1.0,
    )


def compare(updater: Updater, masters: Any, datums: list[Datum]) -> dict[str, float]:
    """The agreement's metrics for datums that were sampled from the same weights."""
    batch = updater.pack(datums)
    if batch.dropped:
        raise RuntimeError(f"{len(batch.dropped)} rows don't fit into the update")
    own = updater.logprobs(masters, batch)
    arrays = batch.arrays
    sums = agreement.token_sums(
        own, arrays["sampler_logprobs"], jnp.asarray(arrays["sampled_mask"])
    )
    metrics = agreement.summarize({k: float(v) for k, v in sums.items()})
    return metrics | {"tokens": float(np.sum(arrays["sampled_mask"]))}


def search_index(*, toy: bool) -> Found:
    """The search index on the host, and on the GPU where FAISS has one."""
    parser = argparse.ArgumentParser()
    harness.add_arguments(parser)
    search.add_arguments(parser)
    options = ["--vectors", "200000", "--repeats", "2"]
    if toy:
        options = ["--vectors", "500", "--dim", "16", "--repeats", "1"]
    result = search.run(parser.parse_args(options))
    yield {"search": {"queries/s": result.rates()["ours"]["median"], **result.notes}}
    count, dim = (500, 16) if toy else (1_000_000, 768)
    try:
        yield {"search on a GPU, float16": _on_a_gpu(count, dim)}
    except UserError as error:
        yield {"search on a GPU, float16": {"refused": str(error)}}


def _on_a_gpu(count: int, dim: int) -> dict[str, float]:
    """Milliseconds a query of 64 together, and the share of what the CPU finds.

    Raises:
      UserError: FAISS has no GPU part.
    """
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((count, dim), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = faiss.IndexFlatIP(dim)
    index.add(vectors)
    whole = Index(approximate.on_gpus(index, 1), on_gpus=True)
    queries = vectors[:64] + 0.05 * rng.standard_normal((64, dim), dtype=np.float32)
    exact = Index(index).search(queries, search.K)[1]
    whole.search(queries, search.K)
    turns = []
    for _ in range(5):
        started = time.perf_counter()
        found = whole.search(queries, search.K)[1]
        turns.append(time.perf_counter() - started)
    same = [
        len({*a} & {*b}) for a, b in zip(exact.tolist(), found.tolist(), strict=True)
    ]
    return {
        "vectors": float(count),
        "ms a query, 64 together": 1e3 * float(np.median(turns)) / len(queries),
        "recall": float(np.mean(same)) / search.K,
    }


def _shape(toy: bool) -> DecoderConfig:
    return shapes.TOY if toy else shapes.SHAPES[SHAPE]


def _arguments(toy: bool, backend: str) -> argparse.Namespace:
    """The engine's options, as a command line gives them."""
    parser = argparse.ArgumentParser()
    generation.add_arguments(parser)
    options = ["--prefill-chunk", "128", "--prefill-rows", "8", "--decode-steps", "32"]
    if toy:
        options = ["--prefill-chunk", "16", "--page-size", "32"]
    return parser.parse_args([*options, "--attention", backend])


def _sheet() -> dict[str, float] | None:
    found = harness.DATA_SHEETS.get(jax.devices()[0].device_kind)
    return dict(zip(("bytes/s", "FLOP/s"), found, strict=True)) if found else None


PARTS: dict[str, Callable[..., Found]] = {
    "machine": machine,
    "tiny": tiny,
    "decode": decode,
    "update": update_flops,
    "agreement": agree,
    "search": search_index,
}
