"""Writes the report of a run: one self-contained HTML page.

python scripts/report.py runs/tiny [--out FILE]
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import check_packages  # noqa: F401
from scope_jax.report import page as report
from scope_jax.run import cli


def main(argv: Sequence[str]) -> int:
    parser = cli.ArgumentParser(prog="report.py", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--out", type=Path, help="file; default RUN/report.html")
    options = parser.parse_args(argv)
    print(report.write(options.run, options.out))
    return 0


if __name__ == "__main__":
    cli.run_main(main)
