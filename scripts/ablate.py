"""Runs the method and what it is without one of its parts, in the small world.

    python scripts/ablate.py --config tiny --arms full,no_gates --seeds 3 --iterations 3
    python scripts/ablate.py --collect
    python scripts/ablate.py --study methods
    python scripts/ablate.py --swap runs/ablate/full_100
    python scripts/ablate.py --board

Every arm is trained with every seed by scripts/train.py and scored by scripts/eval.py,
one run after another, or one per GPU. A run that is finished leaves a small summary and
is not played again; one that was interrupted resumes. Options of train.py may follow
and hold in all arms. `--study methods` compares options of docs/options.md instead, in
one iteration. `--collect` makes tables and a figure of all summaries.
`--swap RUN` lets one Solver of a run search and another answer. `--board` measures the
speed board's row; with `--iterations 1` only as far as that.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

import check_packages  # noqa: F401
from ablation import board, collect, methods, runs, study, summaries, swaps
from ablation.arms import METHODS, PARTS, Arm, chosen
from models.errors import UserError
from scope_jax.run import cli
from scope_jax.run.mistakes import check_folder
from scope_jax.system import stopping

DOCS = Path("docs/small_world")


class Kind(NamedTuple):
    """A kind of study: its arms, folders, common options, and what makes its page."""

    arms: Mapping[str, Arm]
    out: Path
    summaries: Path
    options: tuple[str, ...]
    collect: Callable[[Sequence[collect.Summary], Path], list[Path]]


STUDIES = {
    "parts": Kind(PARTS, Path("runs/ablate"), DOCS / "runs", (), collect.write),
    "methods": Kind(
        METHODS,
        Path("runs/methods"),
        DOCS / "methods",
        ("--iterations", "1"),
        methods.write,
    ),
}


def parser() -> cli.ArgumentParser:
    """The options; any others are of train.py."""
    made = cli.ArgumentParser(prog="ablate.py", description=__doc__, allow_abbrev=False)
    add = made.add_argument
    add("--config", default="tiny", help="configuration that arms depart from")
    add("--study", default="parts", choices=STUDIES, help="which arms: see above")
    add("--arms", help="default: all of the study's")
    add("--seeds", type=int, default=3, help="runs of each arm")
    add("--first-seed", type=int, default=100, help="their seeds count from here")
    add("--out", type=Path, help="folder of run folders, default: the study's")
    add("--summaries", type=Path, help="folder of summaries, default: the study's")
    add("--count", type=int, default=450, help="held-out tasks of an evaluation")
    add("--split", default="test", choices=["dev", "test"], help="their part")
    add("--devices", default="auto", help="auto, cpu, or GPUs such as 0,1")
    add("--dry-run", action="store_true", help="print the commands, run nothing")
    add("--collect", action="store_true", help="tables and figure of the summaries")
    add("--swap", type=Path, metavar="RUN", help="replay swaps of a run's Solvers")
    add("--board", action="store_true", help="the speed board's row")
    return made


def main(argv: Sequence[str]) -> int:
    given, overrides = parser().parse_known_args(argv)
    kind = STUDIES[given.study]
    kept = given.summaries or kind.summaries
    check_folder("--summaries", kept)
    if given.collect:
        for path in kind.collect(summaries.read_all(kept), kept):
            print(path)
        return 0
    if given.swap:
        print(swaps.play(given.swap, given.count, given.split, kept))
        return 0
    check_folder("--out", given.out or kind.out)
    if given.seeds < 1:
        raise UserError(f"--seeds {given.seeds}: needs at least one")
    wanted = ",".join(kind.arms) if given.arms is None else given.arms
    made = study.Study(
        config=given.config,
        overrides=(*kind.options, *overrides),
        arms=tuple(chosen(wanted, kind.arms)),
        seeds=range(given.first_seed, given.first_seed + given.seeds),
        out=(given.out or kind.out).absolute(),
        summaries=kept,
        count=given.count,
        split=given.split,
    )
    devices = runs.devices("cpu" if given.board else given.devices)
    if given.board:
        made = study.for_board(made)
    if given.dry_run:
        print(made.described(devices[0]))
        return 0
    stopping.catch_signals(what="tells the runs to save a checkpoint, and ends")
    failures = made.play(devices)
    if failures:
        print(f"{len(failures)} runs failed; the same command goes on", file=sys.stderr)
        return 1
    if given.board:
        print(board.HEAD, board.row(made.found()), sep="\n")
    return 0


if __name__ == "__main__":
    cli.run_main(main)
