"""What every write to a disk shares: errors in one line, and data that is really there.

A file is written beside its place, brought to the disk, and renamed; a rename is on the
disk once its folder is.
"""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from models.errors import StorageError

REPLACED = "replaced"
"""Ending of a folder whose place another one is taking."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
REFUSALS = (*NO_ROOM, *FORBIDDEN, errno.EFBIG, errno.EIO, errno.ESTALE, errno.ENXIO)
"""Errors of a disk, as opposed to those of a name or of a program."""

_CODE = re.compile(r"os_error_code='(\d+)'")  # as TensorStore ends its messages


@contextlib.contextmanager
def writing(path: str | Path, needed: int | None = None) -> Iterator[None]:
    """Turns what a full or forbidden disk says in the ``with`` block into one line.

    Args:
      path: what is being written.
      needed: bytes that it takes, where known.

    Raises:
      StorageError: with the path, what it needs and what is free.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        if code := refusal(error):
            raise StorageError(describe(path, code, needed)) from error
        raise


def refusal(error: BaseException) -> int | None:
    """The error number with which a disk refused a write, if that is what it was.

    Libraries that write in C++ put the number into the text of another exception.
    """
    if isinstance(error, OSError):
        return error.errno if error.errno in REFUSALS else None
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(refusal, error.exceptions)), None)
    if (found := _CODE.search(str(error))) and int(found[1]) in REFUSALS:
        return int(found[1])
    return refusal(error.__cause__) if error.__cause__ else None


def describe(path: str | Path, code: int, needed: int | None = None) -> str:
    """One line: the path, why it could not be written, and what to do."""
    why = os.strerror(code)
    if code in NO_ROOM or needed is not None:
        facts = [f"{_size(needed)} needed"] if needed is not None else []
        if (free := free_bytes(path)) is not None:
            facts.append(f"{_size(free)} free")
        why = ", ".join([why, *facts])
    if code in NO_ROOM:
        remedy = "free space"
    elif code in FORBIDDEN:
        remedy = "make it writable"
    elif code == errno.EFBIG:
        remedy = "raise the limit on the size of files"
    else:
        remedy = "check the disk"
    return (
        f"{path}: cannot be written ({why}): {remedy}, then give the same command again"
    )


def free_bytes(path: str | Path) -> int | None:
    """Free space on the disk that ``path`` is on, or would be."""
    for place in (Path(path).absolute(), *Path(path).absolute().parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(place).free
    return None


def sync_folder(folder: str | Path) -> None:
    """Brings the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot, and need not
            raise
    finally:
        os.close(descriptor)


def set_aside(path: Path, ending: str = "damaged") -> Path:
    """Renames a file or folder to ``NAME.ENDING``, in place of an older one there."""
    aside = path.with_name(f"{path.name}.{ending}")
    if aside.is_dir():
        shutil.rmtree(aside)
    os.replace(path, aside)
    return aside


def is_draft(name: str) -> bool:
    """Whether ``hf.save`` has made a folder of this name beside the one it writes."""
    return re.fullmatch(r"\..+\.(new|draft)-\w+", name) is not None


def replace_folder(new: str | Path, path: str | Path) -> None:
    """Gives a finished folder the name ``path``, in place of an older one there.

    A process that is killed in between leaves the older one as ``NAME.replaced``, and
    the new one where it was. A disk that refuses it leaves the older one in its place.
    """
    new, path = Path(new), Path(path)
    aside = set_aside(path, REPLACED) if path.exists() else None
    try:
        new.rename(path)
    except OSError:
        if aside:  # or whoever clears up would take it for a leftover
            aside.rename(path)
        raise
    sync_folder(path.parent)
    shutil.rmtree(path.with_name(f"{path.name}.{REPLACED}"), ignore_errors=True)


def _size(count: int) -> str:
    """Bytes as people read them."""
    size, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:,.0f} bytes" if unit == "bytes" else f"{size:,.1f} {unit}"
