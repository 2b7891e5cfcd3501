"""A tool of one's own in place of the search: SQLite's full-text search.

It searches the passages of the small world; PASSAGES in the environment names others
(JSON lines with `id` and `contents`). The database is made in memory when the trainer
starts.

    python scripts/train.py --config ci --run runs/sqlite --iterations 1 \\
        --tools docs/examples/sqlite_search.py:search --evaluation.count 0
"""

import os
import re
import sqlite3

from retrieval.passages import Passages
from retrieval.search import format_passages
from scope_jax.small_world.assets import passages_path

TOP = 1
passages = Passages(os.environ.get("PASSAGES") or passages_path())
database = sqlite3.connect(":memory:", check_same_thread=False)
database.execute("CREATE VIRTUAL TABLE texts USING fts5(title, text)")
database.executemany(
    "INSERT INTO texts VALUES (?, ?)", ((p.title, p.text) for p in passages)
)


async def search(queries):
    """For each query a text that the model is shown: called by the trainer."""
    return [_found(query) for query in queries]


def _found(query: str) -> str:
    """The best passages in the form in which the search shows them, or nothing."""
    words = re.findall(r"\w+", query)
    if not words:
        return ""
    # Ties in the order of the passages, so that a resumed run is shown the same.
    rows = database.execute(
        "SELECT rowid FROM texts WHERE texts MATCH ? ORDER BY rank, rowid LIMIT ?",
        (" OR ".join(f'"{word}"' for word in words), TOP),
    )
    return format_passages([passages[rowid - 1] for (rowid,) in rows])
