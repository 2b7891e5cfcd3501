"""Builds the search index of a corpus ahead of a run.

    python scripts/build_index.py --passages FILE
    python scripts/build_index.py --passages FILE --encoder transformer --encoder-path E

Small corpora don't need this: their index is built on first use.
"""

import contextlib
import io
from collections.abc import Sequence
from itertools import dropwhile, takewhile

import tyro

from models.errors import UserError
from retrieval.config import RetrievalConfig
from retrieval.encoders import make_encoder
from retrieval.index import folder_of, open_or_build
from retrieval.search import open_passages
from scope_jax.cli import run_main


def parse(argv: Sequence[str]) -> RetrievalConfig:
    """The settings that a command line asks for; mistakes are one line each."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                RetrievalConfig, args=argv, prog="build_index.py", description=__doc__
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        # tyro draws a box or, in ASCII, rules: a title, then the paragraph that counts.
        lines = [line.strip("│|+-─╭╮ ") for line in said.getvalue().splitlines()]
        first = next((i for i, line in enumerate(lines) if line), 0)
        body = dropwhile(lambda line: not line, lines[first + 1 :])
        reason = " ".join(takewhile(bool, body)) or "not understood"
        raise UserError(f"{reason}: see --help for all fields") from None


def main(argv: Sequence[str]) -> int:
    config = parse(argv)
    passages = open_passages(config)
    encoder = make_encoder(config)
    open_or_build(config, passages, encoder)
    print(f"{len(passages):,} passages, {encoder.dim} dimensions:", end=" ")
    print(folder_of(config, passages, encoder))
    return 0


if __name__ == "__main__":
    run_main(main)
