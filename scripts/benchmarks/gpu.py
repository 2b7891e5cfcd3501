"""All that there are goals for, on one GPU: part by part, in order of worth.

Every part is a process of its own, so that none finds another's memory taken, and one
that crashes or hangs ends alone. The JSON file is written after each; the same command
again does what is missing in it. Where there is no GPU, everything runs at toy shapes,
and its figures mean nothing.
"""

import argparse
import contextlib
import json
import math
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import gpu_parts
from models.errors import UserError, first_line
from scope_jax.system import files, stopping

LIMITS = {
    "machine": 60,
    "tiny": 150,
    "decode, blocks": 110,
    "decode, pallas": 110,
    "decode, fa3": 110,
    "update": 90,
    "agreement": 90,
    "search": 60,
}
"""Seconds of each part, in order; in all more than there are, as most take less."""
FINAL = ("done", "refused")
"""What is not tried again."""
LEAST = 15
"""Seconds below which no part is begun."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything")
    parser.add_argument("--toy", action="store_true", help="toy shapes, as on a CPU")
    parser.add_argument("--part", choices=tuple(LIMITS), help="this part only, here")


def run(args: argparse.Namespace) -> None:
    """Runs every part that the file does not have yet.

    Raises:
      UserError: without a file, or with one of something else.
    """
    if args.json is None:
        raise UserError("--json: every part is saved when it is done: name a file")
    if args.part:
        run_part(args.part, args.json, toy=args.toy)
        return
    stopping.catch_signals(what="ends the part, and then itself")
    ends = time.monotonic() + 60 * args.minutes
    said = earlier(args.json)
    parts = said["parts"]
    for name, limit in LIMITS.items():
        if parts.get(name, {}).get("status") in FINAL:
            print(f"{name}: kept from an earlier call", flush=True)
            continue
        left = ends - time.monotonic()
        if left < LEAST:
            # What an earlier call has found of it stays.
            late = {"status": "no time left", "remedy": "the same command again"}
            parts.setdefault(name, late)
        else:
            toy = said.get("toy", args.toy)
            # A CPU's compiler and cores may be slow, and there is no card to pay for.
            limit = LIMITS["tiny"] * 2 if toy else limit
            parts[name] = measured(name, min(limit, left), toy=toy)
        if name == "machine":
            check_machine(said, parts[name])
        said["toy"] = args.toy or parts.get("machine", {}).get("toy", False)
        said["goals"] = goals(parts)
        files.write_text(args.json, json.dumps(said, indent=2) + "\n")
        print(f"{name}: {summary(parts[name])}", flush=True)
    for goal, found in said.get("goals", {}).items():
        print(f"{goal}: {found}")
    if said.get("toy"):
        print("at toy shapes: none of these figures means anything")


def earlier(file: Path) -> dict[str, Any]:
    """What an earlier call has found, or a new record.

    Raises:
      UserError: if the file is something else.
    """
    if not file.exists():
        command = shlex.join(["python", *sys.argv])
        return {"benchmark": "gpu", "command": command, "parts": {}}
    try:
        said = json.loads(file.read_text())
        if said["benchmark"] == "gpu" and isinstance(said["parts"], dict):
            # The figures of two machines don't belong in one file.
            said["parts"].pop("machine", None)
            return said
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError(f"--json {file}: is not of this benchmark: name another file")


def check_machine(said: dict[str, Any], part: Mapping[str, Any]) -> None:
    """Keeps which devices and libraries the figures are of.

    Raises:
      UserError: if the earlier ones in the file are of others.
    """
    machine = part.get("result", {}).get("machine")
    if machine is None:  # nothing has been measured on it either
        return
    now = {name: machine.get(name) for name in ("devices", "jax")}
    now["toy shapes"] = bool(part.get("toy"))
    if said.setdefault("machine", now) != now:
        raise UserError(
            f"--json: its figures are of {said['machine']}, and this is {now}: name "
            "another file"
        )


def measured(name: str, seconds: float, *, toy: bool) -> dict[str, Any]:
    """One part, in a process of its own, which is killed when its time is over."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "part.json"
        command = [sys.executable, sys.argv[0], "gpu", "--part", name]
        command += ["--json", str(file), *(["--toy"] if toy else [])]
        environment = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9"} | os.environ
        with (Path(folder) / "errors").open("w+") as errors:
            process = subprocess.Popen(
                command,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
            try:
                code = _end_of(process, seconds)
            except BaseException as error:
                # With what it has started itself; no signal reaches them.
                os.killpg(process.pid, 9)
                process.wait()
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                found = {"status": "out of time"}
            else:
                errors.seek(0)
                last = (errors.read().strip().splitlines() or ["nothing said"])[-1]
                found = {"status": "failed", "error": f"exit code {code}: {last}"}
        if file.exists():
            part = json.loads(file.read_text())
            if part["status"] == "running":
                part |= found
            found = part
    return found | {"seconds": round(time.monotonic() - started, 1)}


def _end_of(process: subprocess.Popen, seconds: float) -> int:
    """The exit code of a process that may take so long.

    Raises:
      TimeoutExpired: it takes longer.
      Stopped: this command is to end.
    """
    step = min(seconds, stopping.POLL_SECONDS)
    for _ in range(math.ceil(seconds / step)):
        stopping.check()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(step)
    raise subprocess.TimeoutExpired(process.args, seconds)


def run_part(name: str, file: Path, *, toy: bool) -> None:
    """Does a part in this process; ``file`` has what it has found so far."""
    kind, _, backend = name.partition(", ")
    found: dict[str, Any] = {}
    part: dict[str, Any] = {"status": "running", "result": found}
    options = {"backend": backend} if backend else {}

    def save() -> None:
        files.write_text(file, json.dumps(part))

    try:
        if name == "machine":
            import jax

            toy = part["toy"] = toy or jax.default_backend() == "cpu"
        save()
        for more in gpu_parts.PARTS[kind](toy=toy, **options):
            found |= more
            save()
        part["status"] = "done"
    except UserError as error:
        part |= {"status": "refused", "error": str(error)}
    except Exception as error:
        why = f"{type(error).__name__}: {first_line(error)[:500]}"
        part |= {"status": "failed", "error": why}
    save()


def goals(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Each goal, what was found, and whether that reaches it."""
    shares = [
        (setting["of data sheet"], f"{name}, {slots}")
        for name, part in parts.items()
        for slots, setting in part.get("result", {}).items()
        if name.startswith("decode")
        and slots.partition(" ")[0] in ("32", "64")
        and setting.get("of data sheet")
    ]
    mfu = parts.get("update", {}).get("result", {}).get("update", {}).get("MFU")
    agrees = parts.get("agreement", {}).get("result", {})
    errors = [one["agree/prob_error"] for one in agrees.values() if "tokens" in one]
    worst = max(errors, default=None)
    best = max(shares, default=(None, ""))
    return {
        "share of the data sheet's bytes/s, 32 rows or more (goal 0.71)": _said(
            best[0], best[0] is not None and best[0] >= gpu_parts.BYTES, best[1]
        ),
        "MFU of the update (goal 0.40)": _said(
            mfu, mfu is not None and mfu >= gpu_parts.MFU
        ),
        f"sampler against updater (alarm {gpu_parts.ALARM})": _said(
            worst, worst is not None and worst <= gpu_parts.ALARM
        ),
    }


def _said(value: float | None, reached: bool, where: str = "") -> str:
    if value is None:
        return "not measured"
    return (
        f"{value:.4g}{', reached' if reached else ', missed'}{where and f' ({where})'}"
    )


def summary(part: Mapping[str, Any]) -> str:
    """One line about a part."""
    why = part.get("error") or part.get("remedy") or ""
    seconds = f" in {part['seconds']:.0f} s" if "seconds" in part else ""
    return f"{part['status']}{seconds}{why and f': {why}'}"
