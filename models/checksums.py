"""SHA-256 of every stored file, in one ``SHA256SUMS`` per folder.

The file has the form that ``sha256sum --check SHA256SUMS`` reads. A folder that appears
as a whole (a checkpoint, an export) is hashed at its end by ``record_folder``; of files
that appear one by one (tasks, rollouts) each adds its line. What has no line was
written before there were any, and is read as it is.

SHA-256, because processors have instructions for it: nothing in ``hashlib`` is faster.
Reading and hashing release the interpreter, so that files are hashed side by side.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from models.errors import DamagedError
from models.storage import sync_folder

NAME = "SHA256SUMS"
THREADS = 16
"""Files hashed at once; more do not help where a disk or memory is the limit."""

_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def of(path: Path, *, sync: bool = False) -> str:
    """The SHA-256 of a file.

    Args:
      sync: also bring the file to the disk.
    """
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if sync:
            os.fsync(stream.fileno())
    return digest


def of_files(
    files: Iterable[Path], hashed: Callable[[Path], str] = of
) -> dict[Path, str]:
    """The SHA-256 of files, several at once; the largest first, as the last to end."""
    order = sorted(files, key=lambda file: -file.stat().st_size)
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        return dict(zip(order, pool.map(hashed, order), strict=True))


def record_folder(folder: Path) -> None:
    """Brings all files of a finished folder to the disk, and notes their hashes."""
    names = [file for file in folder.rglob("*") if file.is_file() and file.name != NAME]
    digests = of_files(names, lambda file: of(file, sync=True))
    sums = {file.relative_to(folder).as_posix(): (d,) for file, d in digests.items()}
    _write(folder, sums)
    for inner in [path for path in folder.rglob("*") if path.is_dir()]:
        sync_folder(inner)


def verify_folder(folder: Path, *, lacking: bool = False) -> bool:
    """Compares a folder's files with their hashes.

    Args:
      lacking: a file may be missing; for folders that others made, or copied in part.

    Returns:
      Whether there were hashes to compare with.

    Raises:
      DamagedError: naming the first file that is not what was written.
    """
    sums = read(folder, strict=not lacking)
    files = {folder / name: digests for name, digests in sums.items()}
    there = [file for file in files if file.is_file()]
    if not lacking and len(there) < len(files):
        gone = min(files.keys() - set(there))
        raise DamagedError(gone, f"is missing, {NAME} names it")
    found = of_files(there)
    for file in sorted(there):
        _compare(file, found[file], files[file])
    return bool(sums)


def check(path: Path, data: bytes) -> None:
    """Compares what was read from a file with its hash, if the folder has one.

    Raises:
      DamagedError: it is not what was written.
    """
    digests = read(path.parent).get(path.name)
    if digests:
        _compare(path, hashlib.sha256(data).hexdigest(), digests)


def recorded(path: Path) -> tuple[str, ...]:
    """The hashes that a file may have; empty if there are none."""
    return read(path.parent).get(path.name, ())


def announce(path: Path, digest: str) -> None:
    """Notes the hash of a file that is about to be renamed to ``path``.

    Until ``settle`` says that it was, the hash of what is there counts too: a process
    killed in between leaves either file, and both are whole.
    """
    sums = read(path.parent)
    known = sums.get(path.name, ())
    if known != (digest,):
        kept = (other for other in _of_what_is_there(path, known) if other != digest)
        _write(path.parent, sums | {path.name: (digest, *kept)})


def _of_what_is_there(path: Path, known: tuple[str, ...]) -> tuple[str, ...]:
    """Its hash, if ``known`` has it or has none; nothing if nothing is there.

    Where a process was killed at a rename, ``known`` has two: of what is there, and of
    a file that may never have appeared.
    """
    if len(known) == 1:  # nobody was killed at a rename, so nothing has to be read
        return known
    try:
        found = of(path)
    except FileNotFoundError:
        return ()
    return (found,) if found in known or not known else ()


def settle(path: Path, digest: str) -> None:
    """Forgets the hash of what was at ``path`` before."""
    sums = read(path.parent)
    if sums.get(path.name) != (digest,):
        _write(path.parent, sums | {path.name: (digest,)})


def forget(path: Path) -> None:
    """Drops the hash of a file that was removed."""
    sums = read(path.parent)
    if sums.pop(path.name, None):
        _write(path.parent, sums)


def read(folder: Path, *, strict: bool = False) -> dict[str, tuple[str, ...]]:
    """The hashes of a folder by the name of the file; empty where it has none.

    Args:
      strict: refuse a line that is no hash; else it is passed over, and so is what it
        was about.

    Raises:
      DamagedError: see ``strict``.
    """
    file = folder / NAME
    try:
        lines = file.read_bytes().decode(errors="replace").split("\n")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    sums: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(lines, 1):
        if match := _LINE.fullmatch(line):
            sums[match[2]] = (*sums.get(match[2], ()), match[1])
        elif strict and (line or number < len(lines)):
            raise DamagedError(file, f"line {number} is no SHA-256 with a name")
    if strict and not sums:
        raise DamagedError(file, "is empty")
    return sums


def _compare(file: Path, found: str, wanted: Sequence[str]) -> None:
    if found not in wanted:
        raise DamagedError(
            file,
            f"not what was written (its SHA-256 is another than in {NAME})",
            f"restore the file, or remove {NAME} if you changed it on purpose",
        )


def _write(folder: Path, sums: Mapping[str, Sequence[str]]) -> None:
    """Writes the hashes of a folder, whole or not at all."""
    text = "".join(
        f"{digest}  {name}\n" for name in sorted(sums) for digest in sums[name]
    )
    draft = folder / f"{NAME}.{os.getpid()}.tmp"
    try:
        with draft.open("wb") as stream:
            stream.write(text.encode())
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, folder / NAME)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    sync_folder(folder)
