"""Writes the report of a run, or of several beside each other: one HTML page.

    python scripts/report.py runs/tiny [RUN ...] [--out FILE]
    python scripts/report.py runs/tiny --serve [--port 8080]

The page holds the conversations of up to about 8,000 rollouts. With --serve all of
them are read from the run's folder, as they are needed, by a server on this machine.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import check_packages  # noqa: F401
from scope_jax.report import page as report
from scope_jax.run import cli
from scope_jax.run.mistakes import check_file


def main(argv: Sequence[str]) -> int:
    parser = cli.ArgumentParser(prog="report.py", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("more", type=Path, nargs="*", help="others to compare it with")
    parser.add_argument("--out", type=Path, help="file; default RUN/report.html")
    parser.add_argument("--serve", action="store_true", help="serve it, write nothing")
    parser.add_argument("--port", type=int, default=8080, help="of --serve; 0 for any")
    options = parser.parse_args(argv)
    if options.serve:
        from scope_jax.report.serve import serve

        serve((options.run, *options.more), options.port)
    else:
        if options.out is not None:
            check_file("--out", options.out)
        print(report.write(options.run, options.out, *options.more))
    return 0


if __name__ == "__main__":
    cli.run_main(main)
