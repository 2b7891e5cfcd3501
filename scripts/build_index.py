"""Builds the search index of a corpus ahead of a run.

    python scripts/build_index.py --passages corpus.jsonl
    python scripts/build_index.py --passages corpus.jsonl --encoder transformer \
        --encoder-path intfloat/e5-base-v2

Small corpora don't need this: their index is built on first use.
"""

import sys

import tyro

from models.errors import UserError
from retrieval.config import RetrievalConfig
from retrieval.encoders import make_encoder
from retrieval.index import folder_of, open_or_build
from retrieval.search import open_passages


def main(argv: list[str] | None = None) -> int:
    config = tyro.cli(
        RetrievalConfig, args=argv, prog="build_index.py", description=__doc__
    )
    try:
        passages = open_passages(config)
        encoder = make_encoder(config)
        open_or_build(config, passages, encoder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(passages):,} passages, {encoder.dim} dimensions:", end=" ")
    print(folder_of(config, passages, encoder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
