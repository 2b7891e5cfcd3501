"""Many schedules of faults, simulated and real; goes on where it stopped.

    python tests/faults/campaign.py simulate --schedules 10000
    python tests/faults/campaign.py repeat 4711
    python tests/faults/campaign.py real --kills 200
    python tests/faults/campaign.py tiny
    python tests/faults/campaign.py table

Results are lines of ``runs/faults/results.jsonl``; ``table`` writes them into
``docs/reliability.md``. What a schedule leaves that is not as promised stays in its
folder beside the results. Exit code 1 if there is such a one.
"""

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Not this folder: its names are no packages.
sys.path[0] = str(ROOT)
sys.path.insert(0, str(ROOT / "scripts"))

from tests.faults.comparing import compared  # noqa: E402
from tests.faults.real import Real, held  # noqa: E402
from tests.faults.simulation import Outcome, Simulation  # noqa: E402

EVERY_SECOND_ITERATION = 8
"""One schedule in so many has two iterations, which take twice as long."""
BEGIN, END = "<!-- campaign -->\n", "<!-- end of campaign -->\n"
PAGE = ROOT / "docs/reliability.md"


def iterations_of(seed: int) -> int:
    return 2 if seed % EVERY_SECOND_ITERATION == 0 else 1


class Simulations:
    """A simulation for each number of iterations, made when first asked for."""

    def __init__(self, folder: Path):
        self._folder, self._made = folder, {}

    def of(self, seed: int) -> Simulation:
        number = iterations_of(seed)
        if number not in self._made:
            folder = self._folder / f"simulated-{number}"
            folder.mkdir(parents=True, exist_ok=True)
            self._made[number] = Simulation(folder, number)
        return self._made[number]


def simulate(folder: Path, schedules: int, place: Path) -> bool:
    """Runs the schedules 0 to ``schedules`` that have no result yet."""
    done = {r["seed"] for r in results(folder) if r["kind"] == "simulated"}
    simulations = Simulations(place)
    well = True
    for seed in range(schedules):
        if seed in done:
            continue
        simulation = simulations.of(seed)
        outcome = simulation.schedule(seed)
        well &= not outcome.wrong
        record = as_record(outcome, len(simulation.names))
        append(folder, record)
        if outcome.wrong:
            print(json.dumps(record, indent=1), flush=True)
        if seed % 100 == 0:
            print(f"schedule {seed}", flush=True)
    return well


def as_record(outcome: Outcome, points: int) -> dict[str, Any]:
    return {
        "kind": "simulated",
        "seed": outcome.seed,
        "iterations": iterations_of(outcome.seed),
        "points": points,
        "wrong": outcome.wrong[-3000:],
        "codes": [start.code for start in outcome.starts],
        "faults": [fault for start in outcome.starts for fault in start.faults],
        "seconds": round(outcome.seconds, 2),
    }


def real(folder: Path, kills: int) -> bool:
    """Runs real processes until as many have been killed."""
    found = [r for r in results(folder) if r["kind"] == "real"]
    count = sum(len(r["kills"]) for r in found)
    seed = max((r["seed"] + 1 for r in found), default=0)
    made: dict[int, Real] = {}
    well = True
    while count < kills:
        number = iterations_of(seed)
        if number not in made:
            made[number] = Real(folder / "real", number)
        record = made[number].run(seed)
        append(folder, record | {"points": len(list(made[number].names))})
        well &= not record["wrong"]
        count += len(record["kills"])
        seed += 1
        print(f"{count} kills, {json.dumps(record)[:2000]}", flush=True)
    return well


def tiny(folder: Path) -> bool:
    """Two runs of one seed: equal to the bit?"""
    runs = [folder / f"tiny-{number}" for number in (1, 2)]
    for run in runs:
        command = [sys.executable, str(ROOT / "scripts/train.py"), "--config", "tiny"]
        subprocess.run([*command, "--run", str(run)], check=True)
    wrong = compared(held(runs[0]), held(runs[1]))
    append(folder, {"kind": "tiny", "seed": 42, "wrong": wrong})
    print(wrong or "two runs of tiny are equal to the bit")
    return not wrong


# --- results --------------------------------------------------------------------------


def results(folder: Path) -> list[dict[str, Any]]:
    file = folder / "results.jsonl"
    if not file.is_file():
        return []
    # The last line may have been cut off by a kill.
    lines = file.read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines]


def append(folder: Path, record: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "results.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")


def table(found: list[dict[str, Any]]) -> str:
    """What came of everything, as Markdown."""
    lines = ["| | schedules | starts | faults or kills | at points | as promised |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    simulated = [r for r in found if r["kind"] == "simulated"]
    killed = [r for r in found if r["kind"] == "real"]
    if simulated:
        faults = [fault for r in simulated for fault in r["faults"]]
        points = {(len_of(f), r["iterations"]) for r in simulated for f in r["faults"]}
        lines.append(_row("simulated", simulated, len(faults), len(points)))
    if killed:
        kills = [kill for r in killed for kill in r["kills"]]
        names = {kill["name"] for kill in kills}
        lines.append(_row("real processes", killed, len(kills), len(names)))
    lines += ["", *_faults(simulated), "", *_codes(simulated, killed)]
    for record in (r for r in found if r["kind"] == "tiny"):
        said = record["wrong"] or "equal to the bit, checkpoints and exports included"
        lines += ["", f"Two fresh runs of `tiny` with seed {record['seed']}: {said}."]
    return "\n".join(lines) + "\n"


def len_of(fault: str) -> str:
    """The number and name of the point in a fault's words."""
    return fault.split(" at ", 1)[1]


def _row(name: str, found: list[dict], faults: int, points: int) -> str:
    good = sum(not r["wrong"] for r in found)
    starts = sum(len(r["codes"]) for r in found)
    shown = f"{len(found):,} | {starts:,} | {faults:,} | {points:,}"
    return f"| {name} | {shown} | {good:,} of {len(found):,} |"


def _faults(simulated: list[dict]) -> Iterator[str]:
    """How often each fault was done."""
    count = Counter(
        fault.split(" at ")[0] for record in simulated for fault in record["faults"]
    )
    yield "| fault, simulated | times |"
    yield "| --- | --- |"
    for name, times in sorted(count.items()):
        yield f"| {name} | {times:,} |"


def _codes(*kinds: list[dict]) -> Iterator[str]:
    """How the starts of the command ended."""
    names = {0: "0, finished", 1: "1, one line", 130: "130", 143: "143"}
    names |= {137: "killed", -9: "killed"}
    counts = [
        Counter(names.get(c, str(c)) for r in k for c in r["codes"]) for k in kinds
    ]
    yield "| a start ended with | simulated | real |"
    yield "| --- | --- | --- |"
    for name in sorted(set().union(*counts)):
        yield f"| {name} | {' | '.join(f'{count[name]:,}' for count in counts)} |"


def write_table(folder: Path) -> None:
    """Puts the table into ``docs/reliability.md``."""
    text = PAGE.read_text(encoding="utf-8")
    new = f"{BEGIN}{table(results(folder))}{END}"
    text = re.sub(f"{BEGIN}.*{END}", lambda _: new, text, flags=re.DOTALL)
    PAGE.write_text(text, encoding="utf-8")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "runs/faults")
    parser.add_argument("--place", type=Path, help="of the simulated runs; in memory")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("simulate").add_argument(
        "--schedules", type=int, default=10_000
    )
    commands.add_parser("repeat").add_argument("seed", type=int)
    commands.add_parser("real").add_argument("--kills", type=int, default=200)
    commands.add_parser("tiny")
    commands.add_parser("table")
    given = parser.parse_args(argv)
    folder = given.folder.absolute()
    place = (given.place or folder).absolute()
    if given.command == "simulate":
        return 0 if simulate(folder, given.schedules, place) else 1
    if given.command == "repeat":
        simulation = Simulations(place).of(given.seed)
        outcome = simulation.schedule(given.seed)
        print(json.dumps(as_record(outcome, len(simulation.names)), indent=1))
        print("\n\n".join(start.said for start in outcome.starts))
        return 1 if outcome.wrong else 0
    if given.command == "real":
        return 0 if real(folder, given.kills) else 1
    if given.command == "tiny":
        return 0 if tiny(folder) else 1
    write_table(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
