"""Kills real processes at named points; on the path of those that the campaign starts.

Python imports this before anything else, in the trainer and in the inference process
that it starts. ``FAULTS_PLAN`` names a file: {"root": run folder, "log": file for the
names of points or "", "kills": [{"process", "at", "when", "victims"}]}; ``at`` counts
the points of that process from 1.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path

KILLED_LATER = 0.25
"""Most seconds between a point and a kill ``later``: in C++, which has no points."""


def _install() -> None:
    plan = json.loads(Path(os.environ["FAULTS_PLAN"]).read_text())
    first = os.environ.setdefault("FAULTS_TRAINER", str(os.getpid()))
    process = "trainer" if first == str(os.getpid()) else "server"
    kills = {kill["at"]: kill for kill in plan["kills"] if kill["process"] == process}
    log = os.open(plan["log"] or os.devnull, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    done = os.open(plan["done"], os.O_WRONLY | os.O_APPEND)
    lock, count = threading.Lock(), 0

    def point(kind: str, name: str) -> "_Kill | None":
        nonlocal count
        with lock:
            count += 1
            kill = kills.get(count)
        full = f"{process} {kind} {name}"
        os.write(log, f"{full}\n".encode())
        return _Kill(kill, full, done) if kill else None

    from tests.faults.disk import Disk

    if process == "trainer":
        import httpx

        _ask(httpx.AsyncClient, point)
    Disk(Path(plan["root"]), point).install()


def _ask(client: type, point) -> None:
    send = client.send

    async def counted(self, request, **options):
        name = f"{request.method} {request.url.path}"
        for kind in ("request", "answer"):
            if kill := point(kind, name):
                kill.before()
                kill.after()
            if kind == "request":
                answer = await send(self, request, **options)
        return answer

    client.send = counted


class _Kill:
    """What happens at the point; see ``disk.Point``."""

    def __init__(self, kill: dict, name: str, done: int):
        self._kill, self._name, self._done = kill, name, done
        self.share = 0.5 if kill["when"] == "between" else None

    def before(self, path=None) -> None:
        if self._kill["when"] == "before":
            self._act()
        elif self._kill["when"] == "later":
            seconds = KILLED_LATER * (self._kill["at"] % 100) / 100
            threading.Timer(seconds, self._act).start()

    def after(self) -> None:
        if self._kill["when"] in ("between", "after"):
            self._act()

    def _act(self) -> None:
        pids = {
            "trainer": [int(os.environ["FAULTS_TRAINER"])],
            "server": _servers(),
        }
        victims = [pid for name in self._kill["victims"] for pid in pids[name]]
        told = json.dumps(self._kill | {"name": self._name, "killed": len(victims)})
        os.write(self._done, f"{told}\n".encode())
        for pid in sorted(victims, key=lambda pid: pid == os.getpid()):
            os.kill(pid, signal.SIGKILL)


def _servers() -> list[int]:
    """The inference process: the trainer's child that is one."""
    trainer = os.environ["FAULTS_TRAINER"]
    found = []
    for folder in Path("/proc").iterdir():
        try:
            parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[1]
            if (
                parent == trainer
                and b"inference.server" in (folder / "cmdline").read_bytes()
            ):
                found.append(int(folder.name))
        except (OSError, IndexError):
            continue
    return found


if "FAULTS_PLAN" in os.environ and not sys.flags.isolated:
    _install()
