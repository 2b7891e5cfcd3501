"""Vectors, BM25 and both fused on the small world: which find, and how fast.

`named` asks for a fact of an entity by its name, `described` for the entity by two of
its facts, and `told` for it by one; found is its passage, or any of which that is true.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import faiss
import numpy as np

from benchmarks import harness
from retrieval.config import RetrievalConfig
from retrieval.search import Searcher
from scope_jax.small_world.assets import passages_path
from scope_jax.small_world.world import Entity, generate

RANKINGS = {"ours": "fused", "vectors": "vectors", "bm25": "bm25"}
DEPTHS = (1, 3, 10)
Query = tuple[str, frozenset[str]]
"""What is asked, and the titles of the passages that are right."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--queries", type=int, default=400, help="of each kind")
    parser.add_argument("--encoder_path", default="", help="empty: lexical vectors")


def run(args: argparse.Namespace) -> harness.Result:
    """Queries per second, 64 together; recall and time alone in the notes."""
    faiss.omp_set_num_threads(1)
    kinds = _queries(args.queries)
    texts = [text for queries in kinds.values() for text, _ in queries]
    notes: dict[str, object] = {}
    seconds: dict[str, list[float]] = {name: [] for name in RANKINGS}
    with tempfile.TemporaryDirectory() as folder:
        file = passages_path(folder)
        searchers = {name: _searcher(args, file, name) for name in RANKINGS}
        for name, searcher in searchers.items():
            notes[f"{RANKINGS[name]}, share of queries found in the best"] = {
                kind: _found(searcher, queries) for kind, queries in kinds.items()
            }
        for turn in range(args.repeats + 1):
            for name, searcher in searchers.items():
                start = time.process_time()
                for first in range(0, len(texts), 64):
                    searcher.search(texts[first : first + 64])
                if turn:  # the first one is warm-up
                    seconds[name].append(time.process_time() - start)
        for name, searcher in searchers.items():
            start = time.process_time()
            for text in texts:
                searcher.search([text])
            spent = 1e3 * (time.process_time() - start) / len(texts)
            notes[f"{RANKINGS[name]}, ms a query alone"] = spent
    return harness.Result(
        what=f"{len(texts)} queries, 64 together, {len(generate().entities)} passages, "
        "ours: fused",
        unit="queries",
        amount=len(texts),
        seconds=seconds,
        notes=notes,
    )


def _searcher(args: argparse.Namespace, file: Path, name: str) -> Searcher:
    encoder = "transformer" if args.encoder_path else "lexical"
    return Searcher(
        RetrievalConfig(
            passages=str(file),
            ranking=RANKINGS[name],
            encoder=encoder,
            encoder_path=args.encoder_path,
            passage_prefix="",
            query_prefix="",
        ),
        progress=False,
    )


def _found(searcher: Searcher, queries: Sequence[Query]) -> dict[int, float]:
    """Number of passages -> share of queries of which one of them is right."""
    hits = searcher.search([text for text, _ in queries], topk=max(DEPTHS))
    ranks = [
        next((i for i, (p, _) in enumerate(found) if p.title in right), max(DEPTHS))
        for found, (_, right) in zip(hits, queries, strict=True)
    ]
    return {depth: float(np.mean([rank < depth for rank in ranks])) for depth in DEPTHS}


def _queries(count: int) -> dict[str, list[Query]]:
    """Queries of each kind about entities that are drawn at random."""
    rng = np.random.default_rng(0)
    world = generate()
    entities = [
        world.entities[i] for i in rng.integers(len(world.entities), size=count)
    ]
    named, described, told = [], [], []
    for entity in entities:
        first, second = (
            entity.facts[i] for i in rng.permutation(len(entity.facts))[:2]
        )
        named.append(
            (
                f"What is the {first.relation} of {entity.name}?",
                frozenset({entity.name}),
            )
        )
        for asked, facts in ((described, (first, second)), (told, (first,))):
            words = " and ".join(f"{fact.relation} is {fact.value}" for fact in facts)
            right = (e.name for e in world.entities if _has(e, facts))
            asked.append((f"Which {entity.kind}'s {words}?", frozenset(right)))
    return {"named": named, "described": described, "told": told}


def _has(entity: Entity, facts: Sequence) -> bool:
    own = {(fact.relation, fact.value) for fact in entity.facts}
    return all((fact.relation, fact.value) in own for fact in facts)
