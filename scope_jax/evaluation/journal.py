"""Answers and verdicts as JSON lines that grow: nothing that was paid for is lost.

Each line is a record with a ``key`` that names what was asked, and is written as soon
as it is known: a killed process loses none, a loss of power at most those of the last
second. The order of lines is that in which they came; readers look records up by their
keys. A line that was left without its end is cut off.
"""

import json
import logging
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from models import storage
from models.errors import DamagedError, UserError
from scope_jax.system.files import Appending, read_json, write_text

log = logging.getLogger("scope_jax")

SYNC_SECONDS = 1.0
"""Between two moments at which all records are brought to the disk."""
REMEDY = "remove the line: what it held is asked for again"


class Journal:
    """The records of one file, by key; the last of a key counts.

    Raises:
      DamagedError: a line that is not the last is no record.
      StorageError: the disk refuses a write.
    """

    def __init__(self, path: Path):
        self.path = path
        self.records: dict[str, dict[str, Any]] = {}
        self._file: Appending | None = None
        self._synced = 0.0
        data = path.read_bytes() if path.is_file() else b""
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            with storage.writing(path), path.open("r+b") as file:
                file.truncate(len(whole))
        for number, line in enumerate(whole.split(b"\n")[:-1], 1):
            record = _record(f"{path}:{number}", line)
            self.records[record["key"]] = record

    def add(self, record: Mapping[str, Any]) -> None:
        """Adds a record, and brings it to the disk where that was not done lately."""
        if self._file is None:
            self._file = Appending(self.path)
        text = json.dumps(record, ensure_ascii=False) + "\n"
        # Each time would take longer than a small model's answer.
        now = time.monotonic()
        due = now - self._synced >= SYNC_SECONDS
        self._synced = now if due else self._synced
        self._file.append(text.encode(), sync=due)
        self.records[record["key"]] = dict(record)

    def close(self) -> None:
        """Lets go of the file."""
        if self._file is not None:
            self._file.append(b"")  # what has come since
            self._file.close()
            self._file = None

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _record(where: str, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DamagedError(where, "damaged", REMEDY) from error
    if not isinstance(record, dict) or not isinstance(record.get("key"), str):
        raise DamagedError(where, "not a record with a key", REMEDY)
    return record


def agree(
    file: Path, facts: Mapping[str, Any], what: str, later: Collection[str] = ()
) -> None:
    """Notes what the records beside ``file`` were made with, or compares it.

    Args:
      file: of the facts, which it holds once something was made with them.
      facts: flat, of values of JSON.
      what: the records are of, for the message.
      later: names of facts that one of the two may lack, which is then no difference:
        older versions did not note them. From now on they are.

    Raises:
      UserError: they were made with others, which are named.
    """
    known = file.is_file()
    before = read_json(file, "remove its folder") if known else {}
    added = [name for name in facts if name not in before]
    names = [
        name
        for name in {**before, **facts}
        if before.get(name) != facts.get(name)
        and not (name in later and (name in added or name not in facts))
    ]
    if known and names:
        name = names[0]
        raise UserError(
            f"{file.parent}: {what} made with other settings ({name}: "
            f"{before.get(name)!r} -> {facts.get(name)!r}): name another "
            "--out, or give it another name: NAME=.."
        )
    if added or not known:
        text = json.dumps({**before, **facts}, indent=2, ensure_ascii=False)
        write_text(file, text + "\n")
    if known and added:
        log.warning(
            "%s: %s of an older version, which did not note %s: taken to be as now",
            file.parent,
            what,
            ", ".join(added),
        )
