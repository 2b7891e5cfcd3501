"""What can go wrong at a point, and the schedule that says where it does.

A schedule is a seed. It gives each start of the command a few faults, each at a point
that is drawn from the points of an undisturbed run; what happens there is drawn from
what can happen at a point of its kind.
"""

import errno
import os
import random
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import httpx

from scope_jax.system import stopping
from tests.faults.clock import Clock
from tests.faults.disk import Disk
from tests.faults.network import Exchange, Network

KILLED = 137
REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
STATUSES = (429, 500, 502, 503, 504)
BODIES = (
    b"",
    b"<html>502 Bad Gateway</html>",
    b"{}",
    b"[" * 20_000,
    b'{"error": "overloaded"}',
    b'{"choices": [{"text": null}], "data": null, "result": [null]}',
    b'{"choices": [], "data": [], "result": [], "missing": []}',
)
KINDS = {
    "file": (
        *("kill before", "kill after", "kill after", "power", "refused", "full"),
        *("server kill", "server stop", "signal", "two signals"),
    ),
    "write": (
        *("kill before", "kill between", "kill between", "kill after", "power"),
        *("refused", "refused between", "full", "short", "short"),
        *("server kill", "server stop", "signal", "two signals"),
    ),
    "request": (
        *("kill before", "server kill", "server stop", "server pause", "refuse"),
        *("lose", "late", "signal"),
    ),
    "answer": (
        *("kill before", "server kill", "server stop", "server pause", "drop", "cut"),
        *("status", "body", "late", "signal"),
    ),
    "update": ("kill before", "server kill", "server stop", "signal", "two signals"),
    "server file": ("server kill", "server stop", "refused", "full", "kill before"),
    "server write": (
        *("server kill", "server kill between", "server stop", "refused"),
        *("refused between", "full", "short", "kill before"),
    ),
}
"""What can happen at each kind of point."""
WORDS = {
    "body": "an answer with status 200 and a malformed body",
    "cut": "an answer cut short",
    "drop": "connection closed before the answer",
    "full": "disk full or read-only from then on",
    "kill after": "process killed after the operation",
    "kill before": "process killed before the operation",
    "kill between": "process killed partway through the operation",
    "late": "a request or an answer 1 or 10 s late",
    "lose": "a request that never arrives",
    "power": "power loss",
    "refuse": "connection refused",
    "refused": "a file operation fails at once",
    "refused between": "a file operation fails partway",
    "server kill": "inference process killed",
    "server kill between": "inference process killed partway through its own write",
    "server pause": "inference process hangs for 0.5 to 40 s",
    "server stop": "inference process hangs for good",
    "short": "a write takes part of its bytes",
    "signal": "SIGINT or SIGTERM, once",
    "status": f"status {', '.join(map(str, STATUSES[:-1]))} or {STATUSES[-1]}",
    "two signals": "SIGINT or SIGTERM, twice",
}
"""What each of these is, for people."""


@dataclass
class Plan:
    """Where the faults of one start of the command are.

    Attributes:
      seed: of the order and the delays, and of what is done.
      at: numbers of points, from 1.
      what: is done at all of them; empty: what is drawn.
      draw: number of the draw of its details, such as an error's number.
      fresh: whether the command is given with ``--fresh``.
    """

    seed: str
    at: tuple[int, ...] = ()
    what: str = ""
    draw: int = 0
    fresh: bool = False


def plans(seed: int, points: int) -> list[Plan]:
    """The faulty starts of a schedule; after them, the command is given in peace.

    Args:
      points: of an undisturbed run.
    """
    drawn, fresh = random.Random(f"schedule {seed}"), random.Random(f"fresh {seed}")
    found = []
    while not found or (len(found) < 6 and drawn.random() < 0.5):
        count = drawn.choice((1, 1, 1, 2, 3))
        # A later start finds less to do.
        most = points if not found else drawn.choice((points, points // 4, 60))
        at = tuple(sorted(drawn.randint(1, most) for _ in range(count)))
        again = bool(found) and fresh.random() < 0.1
        found.append(Plan(f"{seed}/{len(found)}", at, fresh=again))
    return found


@dataclass
class Faults:
    """Counts the points of one process and does what is planned there.

    Attributes:
      names: of the points so far, kept if ``keep``.
      done: what was done, in words.
    """

    plan: Plan
    clock: Clock
    keep: bool = False
    count: int = 0
    names: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    network: Network | None = None
    disk: Disk | None = None
    left: Callable[[int], None] = os._exit
    """Ends the process with what is written so far."""

    def __post_init__(self):
        self._random = random.Random(f"faults {self.plan.seed} {self.plan.draw}")
        self._pace = random.Random(f"pace {self.plan.seed}")
        self._full = 0
        # One run in four is in a hurry, so that all orders come about.
        self._slow = self._pace.choice((0.0, 0.01, 0.1, 1.0))

    def seconds(self, kind: str = "") -> float:
        """How long something takes."""
        if kind == "start":
            return self._pace.uniform(0.5, 6.0)
        return self._pace.uniform(0.0, self._slow)

    def file(self, kind: str, name: str) -> "FileFault | None":
        """At a change of a file."""
        theirs = "server " if self.clock.current.process.name == "server" else ""
        if self._full and self._refuses(kind):
            return FileFault(self, "refused", self._full, 0.5)
        drawn = self._at(theirs + ("write" if kind == "write" else "file"), kind, name)
        if drawn is None:
            return None
        code = self._random.choice(REFUSALS)
        if drawn == "full":
            self._full = self._random.choice((errno.ENOSPC, errno.EROFS))
            drawn, code = "refused", self._full
            if not self._refuses(kind):
                return None
        return FileFault(self, drawn, code, self._random.random())

    def _refuses(self, kind: str) -> bool:
        return self._full == errno.EROFS or kind in ("write", "mkdir", "open")

    def exchange(self, kind: str, name: str) -> Any:
        """At a request or an answer."""
        drawn = self._at(kind, kind, name)
        if drawn is None or self._anywhere(drawn):
            return None
        return getattr(self, f"_{kind}_{drawn.replace(' ', '_')}")

    def update(self, name: str) -> None:
        """At an update of the policy."""
        if drawn := self._at("update", name, ""):
            self._anywhere(drawn)

    def _at(self, kinds: str, kind: str, name: str) -> str | None:
        self.count += 1
        full = f"{self.clock.current.process.name} {kind} {name}".rstrip()
        if self.keep:
            self.names.append(full)
        if self.count not in self.plan.at:
            return None
        drawn = self.plan.what or self._random.choice(KINDS[kinds])
        self.done.append(f"{drawn} at {self.count} {full}")
        return drawn

    def _anywhere(self, drawn: str) -> bool:
        """Does what can be done at any point; whether that was all."""
        server = self.network.server
        if drawn in ("kill before", "kill after"):
            self.left(KILLED)
        elif drawn == "server kill" and server:
            server.kill()
        elif drawn in ("server stop", "server pause") and server:
            server.stopped = True
            if drawn == "server pause":
                seconds = self._random.choice((0.5, 3.0, 12.0, 40.0))
                self.clock.later(seconds, lambda: setattr(server, "stopped", False))
        elif drawn in ("signal", "two signals"):
            number = self._random.choice(stopping.SIGNALS)
            if stopping.requested():
                self.left(128 + number)
            stopping._notes.received = number
            if drawn == "two signals":
                seconds = self._random.uniform(0.0, 3.0)
                self.clock.later(seconds, lambda: self.left(128 + number))
        return drawn.startswith(("kill", "server", "signal", "two"))

    # --- requests: (exchange, delay) -> (delay, a future if it never arrives) ---------

    def _request_refuse(self, exchange: Exchange, delay: float) -> Any:
        raise httpx.ConnectError("connection refused", request=exchange.request)

    def _request_lose(self, exchange: Exchange, delay: float) -> Any:
        return delay, Future()

    def _request_late(self, exchange: Exchange, delay: float) -> Any:
        return delay + self._random.choice((1.0, 10.0)), None

    # --- answers: (exchange, delay, answer) -> (delay, answer) ------------------------

    def _answer_drop(self, exchange: Exchange, delay: float, answer: Any) -> Any:
        raise httpx.RemoteProtocolError("disconnected", request=exchange.request)

    def _answer_late(self, exchange: Exchange, delay: float, answer: Any) -> Any:
        return delay + self._random.choice((1.0, 10.0)), answer

    def _answer_cut(self, exchange: Exchange, delay: float, answer: Any) -> Any:
        content = answer.content[: self._random.randrange(max(1, len(answer.content)))]
        return delay, _answer(exchange, answer.status_code, content)

    def _answer_status(self, exchange: Exchange, delay: float, answer: Any) -> Any:
        return delay, _answer(exchange, self._random.choice(STATUSES), b"busy")

    def _answer_body(self, exchange: Exchange, delay: float, answer: Any) -> Any:
        return delay, _answer(exchange, 200, self._random.choice(BODIES))


def _answer(exchange: Exchange, status: int, content: bytes) -> httpx.Response:
    return httpx.Response(status, content=content, request=exchange.request)


class FileFault:
    """What happens at one change of a file; see ``disk.Point``."""

    def __init__(self, faults: Faults, kind: str, code: int, share: float):
        self._faults, self._kind, self._code = faults, kind, code
        between = kind == "short" or kind.endswith(" between")
        self.share = share if between else None
        self._server = faults.clock.current.process.name == "server"

    def before(self, path: str | None = None) -> None:
        faults = self._faults
        if self._kind == "refused":
            self._refuse(path)
        elif self._kind == "kill before" or self._kind.startswith(("signal", "two")):
            faults._anywhere(self._kind)
        elif self._kind in ("server kill", "server stop"):
            faults._anywhere(self._kind)
            self._leave()

    def after(self) -> None:
        faults = self._faults
        if self._kind in ("kill after", "kill between"):
            faults.left(KILLED)
        elif self._kind == "power":
            faults.disk.lose_power()
            faults.left(KILLED)
        elif self._kind == "refused between":
            self._refuse()
        elif self._kind == "server kill between":
            faults._anywhere("server kill")
            self._leave()

    def _refuse(self, path: str | None = None) -> None:
        raise OSError(self._code, os.strerror(self._code), path)

    def _leave(self) -> None:
        """A server that does this to itself goes no further."""
        if self._server:
            self._faults.clock.block()
