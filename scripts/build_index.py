"""Builds the search index of a corpus ahead of a run.

    python scripts/build_index.py --passages FILE
    python scripts/build_index.py --passages FILE --encoder transformer --encoder-path E
    python scripts/build_index.py --passages FILE --index HNSW32
    python scripts/build_index.py --passages FOLDER --cut_tokens 150 --ranking fused

Text that is not plain JSON lines is copied into a store first, without its duplicates
(docs/your-text.md). Of another index than Flat it also says how much of what Flat finds
is found. Small corpora do not need this: store and index are made on first use.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import check_packages  # noqa: F401
from retrieval import keywords, store
from retrieval.config import RetrievalConfig
from retrieval.encoders import make_encoder
from retrieval.index import FLAT, folder_of, open_or_build
from retrieval.recall import measure
from retrieval.search import open_passages
from scope_jax.run import cli
from scope_jax.system import stopping


def main(argv: Sequence[str]) -> int:
    config = cli.parse_alone(
        RetrievalConfig, argv, prog="build_index.py", about=__doc__
    )
    stopping.end_at_once_on_signals()  # an index appears whole or not at all
    passages = open_passages(config, any_size=True, progress=True)
    if written := store.find(config):
        print(f"{written.lines.parent}: {written.counts}")
    if config.ranking != "vectors":
        keywords.open_or_build(config, passages)
        print(f"{len(passages):,} passages, BM25:", end=" ")
        print(keywords.folder_of(config, passages))
    if config.ranking == "bm25":
        return 0
    encoder = make_encoder(config)
    index = open_or_build(config, passages, encoder)
    print(f"{len(passages):,} passages, {encoder.dim} dimensions:", end=" ")
    print(folder_of(config, passages, encoder))
    if config.index != FLAT or config.gpus:
        print(measure(index, config, passages, encoder) or "no Flat index beside it")
    return 0


if __name__ == "__main__":
    cli.run_main(main)
