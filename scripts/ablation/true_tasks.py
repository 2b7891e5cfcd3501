"""True tasks with true rubrics, as a file for ``tasks.file``."""

import json
from pathlib import Path

from scope_jax.small_world.tasks import heldout_tasks, rubric_text
from scope_jax.system.files import write_text


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
