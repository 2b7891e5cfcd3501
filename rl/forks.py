"""Prefixes that a caller of the engine retains, by the handles of ``Engine.fork``."""

from rl.admission import Admission
from rl.rows import Row


class Forks:
    """Handles, the rows that they stand for, the pages kept when those have left."""

    def __init__(self, admission: Admission):
        self._admission = admission
        self._rows: dict[int, int] = {}  # handle -> id of a row that is still there
        self._pages: dict[int, tuple[int, list[int]]] = {}  # the oldest first

    def add(self, handle: int, id: int) -> None:
        """Keep the prompt of a live row when it leaves."""
        self._rows[handle] = id

    def left(self, row: Row) -> None:
        """A row leaves; it has its slot and its pages still, if it ever had any."""
        for handle in [h for h, id in self._rows.items() if id == row.id]:
            del self._rows[handle]
            if row.slot >= 0:
                self._pages[handle] = self._admission.retain(row)

    def release(self, handle: int) -> None:
        """Give up one; a handle that isn't there any more is nothing wrong."""
        self._rows.pop(handle, None)
        if handle in self._pages:
            self._admission.release(*self._pages.pop(handle))

    def give_up(self, device: int | None = None) -> bool:
        """Release the oldest whose row has left; whether there was one.

        Args:
          device: where its pages are to be; None: anywhere.
        """
        for handle, (where, _) in self._pages.items():
            if device is None or where == device:
                self.release(handle)
                return True
        return False

    def clear(self) -> None:
        """Release all pages: what they hold is of no use any more."""
        while self.give_up():
            pass
