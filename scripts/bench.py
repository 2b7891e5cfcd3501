"""Measures a part of the program beside its peers.

    python scripts/bench.py sampler --peer tunix=.tunix/bin/python --json out.json

Each peer runs in the interpreter that is named, in turns with ours.
"""

import argparse
from collections.abc import Sequence

from scope_jax import cli
from scope_jax.benchmarks import (
    forward,
    harness,
    judge,
    load,
    sampler,
    speculation,
    update,
)

BENCHMARKS = {
    "forward": forward,
    "load": load,
    "sampler": sampler,
    "judge": judge,
    "speculation": speculation,
    "update": update,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    chosen = parser.add_subparsers(dest="benchmark", required=True)
    for name, module in BENCHMARKS.items():
        one = chosen.add_parser(name, help=module.__doc__.splitlines()[0])
        harness.add_arguments(one)
        module.add_arguments(one)
    args = parser.parse_args(argv)
    harness.report(BENCHMARKS[args.benchmark].run(args), args.json)
    return 0


if __name__ == "__main__":
    cli.run_main(main)
