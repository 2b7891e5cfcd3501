"""How a start of the command may end, and what two runs must have in common."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from scope_jax.run import records
from tests.faults.faults import KILLED
from tests.records import comparable

HUNG, BROKEN = 97, 98
"""Codes of a start that waits for ever, and of one that ends with a traceback."""


@dataclass
class Ended:
    """How one start of the command ended.

    Attributes:
      code: its exit code.
      said: its last words.
      faults: what was done to it.
      points: how many it went through.
    """

    code: int
    said: str
    faults: list[str] = field(default_factory=list)
    points: int = 0
    names: list[str] = field(default_factory=list)


def judged(ended: Ended) -> str:
    """What is wrong with how a start of the command ended; empty if nothing is."""
    if ended.code == HUNG:
        return f"hangs: {ended.said}"
    if ended.code == BROKEN or "Traceback" in ended.said:
        return f"a traceback: {ended.said}"
    if ended.code in (0, KILLED, 130, 143):
        return ""
    lines = ended.said.strip().splitlines()
    if ended.code == 1 and lines and lines[-1].startswith("error: "):
        return ""
    return f"exit code {ended.code}: {ended.said}"


UNEQUAL = re.compile(
    r"^(inference\.log|inference/(?!judges)|tb/|tb\.before|\.lock|metrics\.jsonl\.before)"
)
CLOCK = re.compile(rb'"(began|(time/)?unix)": [\d.]+')


def content(run: Path) -> dict[str, bytes]:
    """What must be equal: every name and every byte but the clock's."""
    found = {}
    for file in sorted(run.rglob("*")):
        name = file.relative_to(run).as_posix()
        if UNEQUAL.match(name):
            continue
        if file.is_dir():
            found[f"{name}/"] = b""
            continue
        data = CLOCK.sub(b"", file.read_bytes())
        if name == "metrics.jsonl":
            kept = [comparable(record) for record in records.read(file).records]
            data = json.dumps(kept).encode()
        elif name == "SHA256SUMS":
            data = re.sub(rb"\w{64}  manifest", b"manifest", data)
        elif name == "report.html":
            data = b""  # shows the clock's figures; that it is there is enough
        found[name] = data
    return found


def compared(one: dict[str, bytes], whole: dict[str, bytes]) -> str:
    """How two runs differ; empty if they do not."""
    said = [f"{name} is missing" for name in whole.keys() - one.keys()]
    said += [f"{name} is left over" for name in one.keys() - whole.keys()]
    said += [
        f"{name} differs"
        for name in whole.keys() & one.keys()
        if one[name] != whole[name]
    ]
    return "; ".join(sorted(said))
