"""Measures a part of the program beside its peers.

    python scripts/bench.py sampler --peer tunix=.tunix/bin/python --json out.json
    python scripts/bench.py gpu --json gpu.json

Each peer runs in the interpreter that is named for it, and takes turns with ours. `gpu`
measures on one GPU all that this project has goals for.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import check_packages  # noqa: F401
from benchmarks import (
    answers,
    clients,
    forward,
    gpu,
    harness,
    judge,
    load,
    lora,
    rankings,
    sampler,
    search,
    turns,
    update,
)
from scope_jax.run import cli
from scope_jax.run.mistakes import check_file

BENCHMARKS = {
    "answers": answers,
    "clients": clients,
    "forward": forward,
    "gpu": gpu,
    "load": load,
    "lora": lora,
    "sampler": sampler,
    "judge": judge,
    "rankings": rankings,
    "search": search,
    "turns": turns,
    "update": update,
}


def main(argv: Sequence[str]) -> int:
    parser = cli.ArgumentParser(prog="bench.py", description=__doc__)
    chosen = parser.add_subparsers(dest="benchmark", required=True)
    for name, module in BENCHMARKS.items():
        one = chosen.add_parser(name, help=module.__doc__.splitlines()[0])
        harness.add_arguments(one)
        module.add_arguments(one)
    args = parser.parse_args(argv)
    for name in ("json", "chart"):  # before minutes are spent
        if file := getattr(args, name, None):
            check_file(f"--{name}", file)
    result = BENCHMARKS[args.benchmark].run(args)
    if result is not None:  # one of many parts has been said and saved already
        harness.report(result, args.json)
    return 0


if __name__ == "__main__":
    cli.run_main(main)
