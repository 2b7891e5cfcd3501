"""Judging 8 answers per task, 5 rubrics per answer: what sharing prefixes saves.

The same prompts, each with a first token of its own, show what an engine without
sharing would do: prompt tokens computed, and time.
"""

import argparse
import statistics

from benchmarks import generation, harness, shapes, workloads


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--tasks", type=int, default=4)
    generation.add_arguments(parser)


def run(args: argparse.Namespace) -> harness.Result:
    """Verdict tokens per second, with the prompts' common beginnings shared."""
    config = shapes.SHAPES["qwen3_31m"]
    params = shapes.random_params(config, shapes.usual_dtype(args.dtype))
    work = workloads.judge(config.vocab_size, tasks=args.tasks)
    apart = workloads.judge(config.vocab_size, tasks=args.tasks, shared=False)
    engine = generation.make_engine(params, config, work, args.slots, args)
    seconds, notes = generation.take_turns(engine, params, work, args)
    alone = generation.replay(engine, params, apart, args.repeats)
    computed = alone[0]["perf/prefill_tokens"]
    notes["prompt tokens computed, nothing shared"] = computed
    share = notes["prompt tokens computed, ours"] / computed
    notes["share of prompt tokens computed"] = round(share, 3)
    slow = statistics.median(one["seconds"] for one in alone)
    notes["share of time"] = round(statistics.median(seconds["ours"]) / slow, 3)
    return harness.Result(
        what=f"judge: {len(work)} verdicts, {args.tasks} tasks x 8 answers x 5 rubrics,"
        f" {args.slots} slots, 31 M parameters, {engine.dtype}",
        unit="tokens",
        amount=workloads.useful_tokens(work),
        seconds=seconds,
        notes=notes,
    )
