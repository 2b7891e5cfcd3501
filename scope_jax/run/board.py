"""TensorBoard files: a copy of the metrics, one curve per stage over all iterations.

Written here and now, not by a thread with a queue as ``SummaryWriter`` does it: when a
full disk ends that thread, the run waits for its queue for ever.
"""

import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import scalar

from scope_jax.system.files import Appending


@dataclass(frozen=True)
class Point:
    """The metrics of one step, and when they were measured."""

    metrics: Mapping[str, float]
    step: int
    unix: float


class Board:
    """The event file of one stage.

    Args:
      folder: where it is made.
      unix: the time in its name, which orders several files of a folder.
    """

    def __init__(self, folder: Path, unix: float):
        name = f"events.out.tfevents.{int(unix)}.{socket.gethostname()}"
        self._file = Appending(folder / name)
        self._file.append(_framed(Event(wall_time=unix, file_version="brain.Event:2")))

    def add(self, points: Iterable[Point]) -> None:
        """Adds points, in the order of their steps.

        Raises:
          StorageError: the disk refuses them.
        """
        self._file.append(b"".join(map(_framed, map(_event, points))))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _event(point: Point) -> Event:
    values = [scalar(name, value).value[0] for name, value in point.metrics.items()]
    return Event(wall_time=point.unix, step=point.step, summary=Summary(value=values))


def _framed(event: Event) -> bytes:
    """An event as a TFRecord: length and data, each with its checksum."""
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    checks = (struct.pack("<I", masked_crc32c(part)) for part in (length, data))
    return length + next(checks) + data + next(checks)
