"""The file layer of a run: files appear whole or not at all, and are read checked."""

import contextlib
import errno
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from models import checksums, storage
from models.errors import DamagedError, UserError, first_line

CUT_OFF = re.compile(r"\.\d+\.tmp$|^config\.json\.tmp$")  # the second: old versions


@contextlib.contextmanager
def replacing(
    path: Path, *, recorded: bool = False, needed: int | None = None
) -> Iterator[Path]:
    """Gives a path to write to, which then takes the place of ``path``.

    What is written is on the disk before it appears; after an exception ``path`` is as
    it was, and nothing lies beside it. Each process writes to a path of its own.

    Args:
      path: the file.
      recorded: note its hash in the folder's ``SHA256SUMS``.
      needed: bytes that it takes, for the message of a full disk.

    Raises:
      IsADirectoryError: a folder is there; of it, and not of a name that nobody gave.
      StorageError: the disk refuses it.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with storage.writing(path, needed):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            if recorded:
                digest = checksums.of(temporary)
                checksums.announce(path, digest)
            os.replace(temporary, path)
            storage.sync_folder(path.parent)
            if recorded:
                checksums.settle(path, digest)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
                if recorded and not path.exists():
                    checksums.forget(path)  # it may have been announced
            raise


def write_text(path: Path, text: str, *, recorded: bool = False) -> None:
    """Writes a file that appears whole or not at all; see ``replacing``."""
    data = text.encode("utf-8")
    with replacing(path, recorded=recorded, needed=len(data)) as temporary:
        temporary.write_bytes(data)


def write_json_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object per line, whole or not at all; NaN is written as null.

    Its hash is recorded.
    """
    lines = (json.dumps(_plain(record), ensure_ascii=False) for record in records)
    write_text(path, "".join(line + "\n" for line in lines), recorded=True)


def remove(path: Path) -> None:
    """Removes a file, if it is there, and its recorded hash.

    The hash first: a killed process leaves no line about a file that is gone.
    """
    with storage.writing(path):
        checksums.forget(path)
        path.unlink(missing_ok=True)


def remove_cut_off(folder: Path) -> None:
    """Removes what killed processes were writing in a run folder that nobody uses."""
    for file in folder.rglob("*.tmp"):
        if CUT_OFF.search(file.name):
            file.unlink()
    for draft in folder.glob("export/*/.*"):
        if storage.is_draft(draft.name):
            shutil.rmtree(draft)


class Appending:
    """A file that grows by whole pieces, each on the disk when ``append`` returns.

    Without ``sync`` a piece is the system's when it returns: a killed process loses
    none, a machine that loses its power may.
    """

    def __init__(self, path: Path):
        self.path = path
        with storage.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # No buffer: what a full disk refused would be written again at the end.
            self._file = path.open("ab", buffering=0)

    def append(self, data: bytes, *, sync: bool = True) -> None:
        """Adds ``data``; if the disk refuses it, the file stays as it was.

        Raises:
          StorageError: the disk refuses it.
        """
        with storage.writing(self.path, len(data)):
            end = os.fstat(self._file.fileno()).st_size
            try:
                rest = memoryview(data)
                while rest:  # one call may write a part only
                    rest = rest[self._file.write(rest) :]
                if sync:
                    os.fsync(self._file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file.fileno(), end)
                raise

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()


RESTORE = "restore the file"


def read_bytes(path: Path, remedy: str = RESTORE, missing: str = "") -> bytes:
    """What a file holds, compared with its recorded hash if it has one.

    Args:
      remedy: what a person can do about a damaged file.
      missing: about one that is not there, if that is something else.

    Raises:
      DamagedError: the file is missing, or not what was written.
      UserError: it cannot be read for another reason.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DamagedError(path, "no such file", missing or remedy) from error
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}): {missing or remedy}"
        ) from error
    try:
        checksums.check(path, data)
    except DamagedError as error:
        raise DamagedError(path, error.why, remedy) from error
    return data


def read_text(path: Path, remedy: str = RESTORE, missing: str = "") -> str:
    """As ``read_bytes``, of UTF-8 text."""
    try:
        return read_bytes(path, remedy, missing).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DamagedError(path, f"not UTF-8 text ({error.reason})", remedy) from error


def read_json(path: Path, remedy: str = RESTORE) -> Any:
    """As ``read_bytes``, of JSON."""
    return _json(str(path), read_text(path, remedy), remedy)


def read_json_lines(path: Path, remedy: str = RESTORE) -> list[dict[str, Any]]:
    """Reads what ``write_json_lines`` wrote.

    Raises:
      DamagedError: as ``read_bytes``; a line that is no JSON object is named.
    """
    records = []
    # Not ``splitlines``: models write line separators that JSON leaves as they are.
    for number, line in enumerate(read_text(path, remedy).split("\n"), 1):
        if line:
            record = _json(f"{path}:{number}", line, remedy)
            if not isinstance(record, dict):
                raise DamagedError(f"{path}:{number}", "not a JSON object", remedy)
            records.append(record)
    return records


def _json(where: str, text: str, remedy: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedError(where, f"not JSON ({first_line(error)})", remedy) from error


def json_rows(
    where: str, text: str, good: Callable[[Any], bool], form: str
) -> list[dict[str, Any]]:
    """The objects of JSON lines that a person wrote; blank lines are skipped.

    Args:
      where: the text comes from, for messages.
      text: of the file.
      good: whether a row is what it has to be.
      form: in words.

    Raises:
      UserError: a line is no JSON, or not good; it is named by its number in the file.
    """
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            # An escape may be half a surrogate pair, which no file or request holds.
            json.dumps(row, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            why = "half a surrogate pair" if isinstance(error, UnicodeError) else error
            raise UserError(f"{where}:{number}: not JSON: {why}") from error
        if not good(row):
            raise UserError(f"{where}:{number}: not {form}: mend or remove the line")
        rows.append(row)
    return rows


def cache_dir() -> Path:
    """Folder of files that can be made again; ``SCOPE_JAX_CACHE`` names another."""
    if found := os.environ.get("SCOPE_JAX_CACHE"):
        return Path(found)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "scope_jax"


def _plain(value: Any) -> Any:
    """``value`` without numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
