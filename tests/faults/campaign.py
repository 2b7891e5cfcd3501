"""Many schedules of faults, simulated and real; goes on where it stopped.

    python tests/faults/campaign.py simulate --schedules 10000
    python tests/faults/campaign.py repeat 4711
    python tests/faults/campaign.py real --kills 200
    python tests/faults/campaign.py tiny
    python tests/faults/campaign.py keep

Results are lines of ``runs/faults/results.jsonl``. ``keep`` adds them to the tally of
``tests/faults/campaign.json``, behind which the next campaign goes on, and writes it
into ``docs/reliability.md``. What a schedule leaves that is not as promised stays in
its folder beside the results. Exit code 1 if there is such a one.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    # Not this folder: its names are no packages.
    sys.path[0] = str(ROOT)
    sys.path.insert(0, str(ROOT / "scripts"))

from tests.faults.comparing import compared  # noqa: E402
from tests.faults.faults import WORDS  # noqa: E402
from tests.faults.real import Real, held  # noqa: E402
from tests.faults.simulation import Outcome, Simulation  # noqa: E402

EVERY_SECOND_ITERATION = 8
"""One schedule in so many has two iterations, which take twice as long."""
BEGIN, END = "<!-- campaign -->\n", "<!-- end of campaign -->\n"
PAGE = ROOT / "docs/reliability.md"
KEPT = Path(__file__).with_name("campaign.json")
NOTHING: dict[str, Any] = {"next": 0, "schedules": 0, "good": 0}
NOTHING |= {"faults": {}, "codes": {}, "points": []}
"""The tally of a kind of which nothing was run."""


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
    """Runs the schedules below ``schedules`` that have no result yet."""
    done = {r["seed"] for r in results(folder) if r["kind"] == "simulated"}
    simulations = Simulations(place)
    well = True
    for seed in range(first("simulated"), schedules):
        if seed in done:
            continue
        simulation = simulations.of(seed)
        outcome = simulation.schedule(seed)
        well &= not outcome.wrong
        record = as_record(outcome)
        append(folder, record)
        if outcome.wrong:
            print(json.dumps(record, indent=1), flush=True)
        if seed % 100 == 0:
            print(f"schedule {seed}", flush=True)
    return well


def as_record(outcome: Outcome) -> dict[str, Any]:
    return {
        "kind": "simulated",
        "seed": outcome.seed,
        "iterations": iterations_of(outcome.seed),
        "wrong": outcome.wrong[-3000:],
        "codes": [start.code for start in outcome.starts],
        "faults": [fault for start in outcome.starts for fault in start.faults],
        "seconds": round(outcome.seconds, 2),
    }


def real(folder: Path, kills: int) -> bool:
    """Runs real processes until as many have been killed."""
    found = [r for r in results(folder) if r["kind"] == "real"]
    count = sum(len(r["kills"]) for r in found)
    count += kept().get("real", NOTHING)["faults"].get("kill", 0)
    seed = max((r["seed"] + 1 for r in found), default=first("real"))
    made: dict[int, Real] = {}
    well = True
    while count < kills:
        number = iterations_of(seed)
        if number not in made:
            made[number] = Real(folder / "real", number)
        record = made[number].run(seed)
        append(folder, record)
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


def first(kind: str) -> int:
    """The first schedule of a kind that is not in the tally."""
    return kept().get(kind, NOTHING)["next"]


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


# --- tallies --------------------------------------------------------------------------


def tally(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What is kept of results: per kind, how often what was done, and what came."""
    tallies: dict[str, dict[str, Any]] = {}
    for kind in ("simulated", "real", "tiny"):
        those = [record for record in found if record["kind"] == kind]
        if not those:
            continue
        done = [split_fault(fault) for r in those for fault in r.get("faults", ())]
        kills = (kill["name"] for r in those for kill in r.get("kills", ()))
        done += [("kill", named(point)) for point in kills]
        tallies[kind] = {
            "next": max(record["seed"] for record in those) + 1,
            "schedules": len(those),
            "good": sum(not record["wrong"] for record in those),
            "faults": Counter(what for what, _ in done),
            "codes": Counter(str(c) for r in those for c in r.get("codes", ())),
            "points": sorted({name for _, name in done}),
        }
    return tallies


def merged(*tallies: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Several tallies as one."""
    whole: dict[str, dict[str, Any]] = {}
    for one in tallies:
        for kind, new in one.items():
            old = whole.get(kind, NOTHING)
            whole[kind] = {
                "next": max(old["next"], new["next"]),
                "schedules": old["schedules"] + new["schedules"],
                "good": old["good"] + new["good"],
                "faults": Counter(old["faults"]) + Counter(new["faults"]),
                "codes": Counter(old["codes"]) + Counter(new["codes"]),
                "points": sorted({*old["points"], *new["points"]}),
            }
    return whole


def split_fault(fault: str) -> tuple[str, str]:
    """What was done, and the name of its point."""
    what, point = fault.split(" at ", 1)
    return what, named(point.split(" ", 1)[1])


def named(point: str) -> str:
    """The name of a point, without what is another in every run."""
    return re.sub(r"\d{6,}", "N", point)


def kept() -> dict[str, dict[str, Any]]:
    """The tally that is part of the repository."""
    return json.loads(KEPT.read_text()) if KEPT.is_file() else {}


def keep(folder: Path) -> None:
    """Adds the folder's results to the tally, once: the next machine goes on there."""
    whole = merged(kept(), tally(results(folder)))
    KEPT.write_text(json.dumps(whole, indent=1, sort_keys=True) + "\n")
    if (file := folder / "results.jsonl").is_file():
        file.rename(folder / f"results.{time.time_ns()}.jsonl")


def table(tallies: dict[str, dict[str, Any]]) -> str:
    """What came of everything, as Markdown."""
    names = {"simulated": "simulated", "real": "real processes"}
    shown = {kind: tallies[kind] for kind in names if kind in tallies}
    lines = ["| | schedules | starts | faults or kills | at points | as promised |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for kind, one in shown.items():
        starts, faults = sum(one["codes"].values()), sum(one["faults"].values())
        count = one["schedules"]
        lines.append(
            f"| {names[kind]} | {count:,} | {starts:,} | {faults:,} | "
            f"{len(one['points']):,} | {one['good']:,} of {count:,} |"
        )
    if "simulated" in shown:
        lines += ["", "| fault, simulated | times |", "| --- | --- |"]
        counts = shown["simulated"]["faults"].items()
        faults = sorted((WORDS[name], times) for name, times in counts)
        lines += [f"| {what} | {times:,} |" for what, times in faults]
    lines += ["", *_codes(shown)]
    if "tiny" in tallies:
        one = tallies["tiny"]
        lines += ["", f"Two fresh runs of `tiny` with one seed: {one['good']} of "]
        lines[-1] += f"{one['schedules']} equal to the bit, checkpoints and exports "
        lines[-1] += "included."
    return "\n".join(lines) + "\n"


def _codes(shown: dict[str, dict[str, Any]]) -> Iterator[str]:
    """How the starts of the command ended."""
    names = {"0": "0, finished", "1": "1, one line", "130": "130", "143": "143"}
    names |= {"137": "killed", "-9": "killed"}
    counts = []
    for one in shown.values():
        counts.append(Counter())
        for code, times in one["codes"].items():
            counts[-1][names.get(code, code)] += times
    yield f"| a start ended with | {' | '.join(shown)} |"
    yield f"| --- |{' --- |' * len(shown)}"
    for name in sorted(set().union(*counts)):
        yield f"| {name} | {' | '.join(f'{count[name]:,}' for count in counts)} |"


def write_table() -> None:
    """Puts the table of the tally into ``docs/reliability.md``."""
    text = PAGE.read_text(encoding="utf-8")
    new = f"{BEGIN}{table(kept())}{END}"
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
    commands.add_parser("keep")
    given = parser.parse_args(argv)
    folder = given.folder.absolute()
    place = (given.place or folder).absolute()
    if given.command == "simulate":
        return 0 if simulate(folder, given.schedules, place) else 1
    if given.command == "repeat":
        simulation = Simulations(place).of(given.seed)
        outcome = simulation.schedule(given.seed)
        print(json.dumps(as_record(outcome), indent=1))
        print("\n\n".join(start.said for start in outcome.starts))
        return 1 if outcome.wrong else 0
    if given.command == "real":
        return 0 if real(folder, given.kills) else 1
    if given.command == "tiny":
        return 0 if tiny(folder) else 1
    keep(folder)
    write_table()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
