"""The file layer of a test: every call that changes a folder is a point of its own.

What Python writes, renames and removes below one folder goes through here; so a test
can end the process before, in the middle of or after each, or let the disk refuse it.
"""

import builtins
import io
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Point = Callable[[str, str], Any]
"""(kind, path below the folder) -> what is to happen there, or None.

What it returns has ``before(path)``, ``after()`` and ``share``: between the two, a
write gets as far as that share of its data (None: all of it).
"""

UNSEEN = (".lock", "inference.log")
"""Files that hold nothing, or are written by whoever writes to stderr."""

_CHANGING = re.compile(r"[wax+]")
_OURS = re.compile(r"\.\d+\.tmp$")
_RANDOM = re.compile(r"(\.(?:new|draft)-|tfevents\.)[\w.-]+")


class Disk:
    """Patches what changes files; see ``install``.

    Args:
      root: the folder.
      point: is asked at every change.
    """

    def __init__(self, root: Path, point: Point):
        self.root, self._point = f"{Path(root).absolute()}{os.sep}", point
        self.unsynced: dict[str, int] = {}
        """Path -> bytes of it that have been brought to the disk."""
        self._renamed: list[tuple[str, str, str | None]] = []
        """(from, to, what was there before) of renames whose folder has not been."""
        self._kept = f"{self.root.rstrip(os.sep)}.kept-{os.getpid()}"

    def install(self) -> None:
        """From now on, and to the end of the process."""
        self._real_unlink = os.unlink
        for name in ("mkdir", "rmdir", "unlink", "remove"):
            setattr(os, name, self._call(name, getattr(os, name)))
        for name in ("rename", "replace"):
            setattr(os, name, self._rename(getattr(os, name)))
        os.fsync = self._on_descriptor("fsync", os.fsync)
        os.ftruncate = self._on_descriptor("truncate", os.ftruncate)
        real = builtins.open
        builtins.open = io.open = self._open(real)
        shutil._USE_CP_SENDFILE = False  # which no write would be seen of

    def lose_power(self) -> None:
        """Takes from files, and from folders, what was not brought to the disk."""
        for path, size in self.unsynced.items():
            if os.path.exists(path):
                os.truncate(path, size)
        for source, target, before in reversed(self._renamed):
            if os.path.exists(target) and not os.path.exists(source):
                self._real_rename(target, source)
            if before:
                self._real_rename(before, target)

    def below(self, path: Any, folder: int | None = None) -> str | None:
        """The path below the root; None elsewhere."""
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        elif folder is not None:
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
        path = os.path.abspath(os.fspath(path))
        if not isinstance(path, str) or not f"{path}{os.sep}".startswith(self.root):
            return None
        return path

    def _at(self, kind: str, path: str) -> Any:
        name = _RANDOM.sub(r"\1", _OURS.sub(".tmp", path[len(self.root) :]))
        return self._point(kind, name)

    def _done(self, action: Any, path: str, call: Callable[[], Any]) -> Any:
        """A change that happens whole or not at all."""
        if action is None:
            return call()
        action.before(path)
        result = call()
        action.after()
        return result

    def _call(self, kind: str, real: Callable) -> Callable:
        def called(path, *args, dir_fd=None, **options):
            def change():
                if dir_fd is not None:
                    options["dir_fd"] = dir_fd
                return real(path, *args, **options)

            there = self.below(path, dir_fd)
            if there is None:
                return change()
            if kind in ("unlink", "remove"):
                self.unsynced.pop(there, None)
            return self._done(self._at(kind, there), there, change)

        return called

    def _rename(self, real: Callable) -> Callable:
        self._real_rename = real

        def renamed(source, target, **options):
            there = self.below(target)
            if there is None:
                return real(source, target, **options)
            start, before = self.below(source) or "", None

            def change() -> None:
                nonlocal before
                if os.path.isfile(there):
                    before = f"{self._kept}-{len(self._renamed)}"
                    os.link(there, before)
                real(source, target, **options)
                self._renamed.append((start, there, before))

            self._done(self._at("rename", there), there, change)
            for path in [p for p in self.unsynced if f"{p}/".startswith(f"{start}/")]:
                self.unsynced[there + path[len(start) :]] = self.unsynced.pop(path)

        return renamed

    def _on_descriptor(self, kind: str, real: Callable) -> Callable:
        def called(descriptor, *args):
            there = self.below(descriptor)
            if there is None:
                return real(descriptor, *args)
            self._done(self._at(kind, there), None, lambda: real(descriptor, *args))
            if kind == "fsync":
                self.unsynced.pop(there, None)
                kept = [
                    one for one in self._renamed if os.path.dirname(one[1]) != there
                ]
                for _, _, before in set(self._renamed) - set(kept):
                    if before:
                        self._real_unlink(before)
                self._renamed = kept

        return called

    def _open(self, real: Callable) -> Callable:
        def opened(file, mode="r", buffering=-1, *args, **options):
            there = None
            if _CHANGING.search(mode) and not isinstance(file, int):
                there = self.below(file)
            if there is None or os.path.basename(there) in UNSEEN:
                return real(file, mode, buffering, *args, **options)
            fresh = "a" not in mode or not os.path.exists(there)
            raw = self._done(
                self._at("open", there) if fresh else None,
                there,
                lambda: _File(self, there, re.sub("[bt]", "", mode)),
            )
            if buffering == 0:
                return raw
            stream = io.BufferedWriter(raw)
            return stream if "b" in mode else io.TextIOWrapper(stream, *args, **options)

        return opened


class _File(io.FileIO):
    """A file whose every write is a point."""

    def __init__(self, disk: Disk, path: str, mode: str):
        super().__init__(path, mode)
        self._disk, self._path = disk, path

    def write(self, data: Any) -> int:
        size = os.fstat(self.fileno()).st_size
        self._disk.unsynced.setdefault(self._path, size)
        action = self._disk._at("write", self._path)
        if action is None:
            return super().write(data)
        data = memoryview(data).cast("B")
        action.before()
        count = len(data)
        if action.share is not None:
            count = max(1, int(count * action.share)) if count > 1 else count
        written = super().write(data[:count])
        action.after()
        return written
