"""True tasks with true rubrics, as a file for ``tasks.file``."""

import json
from pathlib import Path

from scope_jax.small_world.tasks import heldout_tasks, rubric_text
from scope_jax.system.files import write_text


def ensure(path: Path, count: int, seed: int) -> None:
    """Writes the file, unless there is one with at least ``count`` tasks.

    More of them begin with the same ones, and a run takes them in order: a file of a
    longer study serves a shorter one, which must not shorten it.
    """
    there = path.read_bytes().count(b"\n") if path.is_file() else 0
    if there < count:
        write(path, count, seed)


def write(path: Path, count: int, seed: int) -> None:
    """Writes ``count`` tasks about the part of the world that is trained on.

    They are drawn like the held-out ones; every wanted fact has one rubric, in the
    words in which the judge writes them.
    """
    rows = [
        {
            "task": task.text,
            "type": task.type,
            "rubrics": [rubric_text(fact) for fact in task.facts],
        }
        for task in heldout_tasks(count, seed, "train")
    ]
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
