"""Generation: useful tokens per second, and bytes per second of one accelerator.

`--work multiturn` and `--work plain` are played beside peers. `--work steady` (what
larger shapes play) is for one accelerator; see ``steady``.
"""

import argparse
import statistics
from pathlib import Path

from benchmarks import generation, harness, shapes, steady, workloads


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--shape", choices=tuple(shapes.SHAPES), default="qwen3_31m")
    parser.add_argument("--work", choices=("multiturn", "plain", "steady"))
    parser.add_argument(
        "--slots", default="8", help="one number or several with commas, for ours"
    )
    parser.add_argument("--groups", type=int, default=4, help="of 8 conversations")
    parser.add_argument("--lengths", default="1024,2048", help="of steady rows")
    parser.add_argument(
        "--chart", type=Path, help="draw steady tokens/s over slots into this SVG file"
    )
    generation.add_arguments(parser)


def run(args: argparse.Namespace) -> harness.Result:
    """Useful tokens per second at the first number of slots; the others in notes."""
    config = shapes.SHAPES[args.shape]
    if args.work == "steady" or (args.work is None and args.shape != "qwen3_31m"):
        return steady.run(config, args)
    first, *others = (int(x) for x in args.slots.split(","))
    params = shapes.random_params(config, shapes.usual_dtype(args.dtype))
    if args.work == "plain":
        work = workloads.plain(config.vocab_size)
    else:
        work = workloads.multiturn(config.vocab_size, groups=args.groups)
    tokens = workloads.useful_tokens(work)
    engine = generation.make_engine(params, config, work, first, args)
    seconds, notes = generation.take_turns(engine, params, work, args)
    for count in others:
        engine = generation.make_engine(params, config, work, count, args)
        turns = generation.replay(engine, params, work, args.repeats)
        rates = [round(tokens / turn["seconds"], 1) for turn in turns]
        spread = f"{statistics.median(rates)} ({min(rates)} to {max(rates)})"
        notes[f"tokens/s with {count} slots"] = spread
    return harness.Result(
        what=f"sampler: {args.work or 'multiturn'}, {len(work)} conversations, "
        f"{first} slots, 31 M parameters, {engine.dtype}, useful tokens",
        unit="tokens",
        amount=tokens,
        seconds=seconds,
        notes=notes,
    )
