"""BM25 and both rankings fused: as the formulas say, alone and in company."""

import json
import math
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from models.errors import UserError
from retrieval import keywords
from retrieval.config import RetrievalConfig
from retrieval.lexical import words
from retrieval.passages import Passages
from retrieval.search import Searcher, fused, open_passages

COMMON = ["the", "of", "a"]
WORDS = ["river", "bridge", "guild", "mason", "Bern", "Aare", "lake", "north"]
WORDS += 3 * COMMON


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    random = np.random.default_rng(3)
    path = tmp_path_factory.mktemp("words") / "p.jsonl"
    rows = [
        {"title": f"T{i % 7}", "text": " ".join(random.choice(WORDS, 3 + i % 11))}
        for i in range(200)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


QUERIES = ["the river of Bern", "bridge bridge guild", "T3 lake", "Mason!", "of the of"]


def by_formula(passages, query, k1, b):
    """Scores of all passages in float64, as the module's docstring writes them."""
    texts = [Counter(words(p.contents)) for p in passages]
    lengths = [sum(text.values()) for text in texts]
    mean = sum(lengths) / len(lengths)
    scores = np.zeros(len(texts))
    for word in words(query):
        having = sum(word in text for text in texts)
        idf = math.log(1 + (len(texts) - having + 0.5) / (having + 0.5))
        for i, text in enumerate(texts):
            if f := text[word]:
                scores[i] += idf * f / (f + k1 * (1 - b + b * lengths[i] / mean))
    return scores


@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.9, 0.4), (0.0, 0.0), (3.0, 1.0)])
def test_scores_are_those_of_the_formula(file, k1, b):
    config = RetrievalConfig(passages=str(file), ranking="bm25", bm25_k1=k1, bm25_b=b)
    passages = open_passages(config)
    index = keywords.open_or_build(config, passages, progress=False)
    for query, found in zip(QUERIES, index.search(QUERIES, 200), strict=True):
        wanted = by_formula(passages, query, k1, b)
        assert len(found) == np.count_nonzero(wanted)
        np.testing.assert_allclose(
            [score for _, score in found], [wanted[i] for i, _ in found], rtol=1e-5
        )
        ranks = [(-score, number) for number, score in found]
        assert ranks == sorted(ranks)


@pytest.mark.parametrize("ranking", ["bm25", "fused"])
def test_results_depend_neither_on_company_nor_on_threads(file, ranking):
    searcher = Searcher(
        RetrievalConfig(passages=str(file), ranking=ranking), progress=False
    )
    many = [f"{a} {b}" for a in WORDS for b in QUERIES]
    alone = [searcher.search([query])[0] for query in many]
    assert searcher.search(many) == alone
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda q: searcher.search([q])[0], many)) == alone
    assert searcher.search(["", "zzz", "\ud800"]) == [[], [], []]
    assert len(searcher.search(["lake"], topk=9)[0]) == 9
    assert searcher.search(many[:3], topk=5) == [
        found[:5] for found in searcher.search(many[:3], topk=8)
    ]


class Read(np.ndarray):
    """An array that counts how often a part of it is read."""

    times = 0

    def __getitem__(self, place):
        Read.times += 1
        return np.asarray(super().__getitem__(place))


def test_a_word_is_read_a_few_times_and_counts_as_often_as_it_is_there(file):
    config = RetrievalConfig(passages=str(file), ranking="bm25")
    passages = open_passages(config)
    index = keywords.open_or_build(config, passages, progress=False)
    kept = index._scores.scores
    kept["data"] = np.asarray(kept["data"]).view(Read)
    Read.times = 0
    [found] = index.search(["the river " * 3000 + "lake"], 200)
    assert Read.times == 2 * keywords.TIMES + 1
    lake = by_formula(passages, "lake", 1.2, 0.75)
    wanted = 3000 * by_formula(passages, "the river", 1.2, 0.75) + lake
    np.testing.assert_allclose(
        [score for _, score in found], [wanted[i] for i, _ in found], rtol=1e-5
    )


@pytest.mark.parametrize("repeated", [1, keywords.TIMES, 50])
def test_scores_are_those_of_the_library_that_built_the_index(file, repeated):
    """To the last bit, where no word is repeated more often than it is read."""
    config = RetrievalConfig(passages=str(file), ranking="bm25")
    index = keywords.open_or_build(config, open_passages(config), progress=False)
    known = sorted({*index._scores.get_tokens_ids(map(str.lower, WORDS))})
    ids = np.random.default_rng(5).permutation(known * repeated).tolist()
    ours, theirs = index._sums(ids), index._scores.get_scores_from_ids(ids)
    assert ours.dtype == theirs.dtype == np.float32
    exact = repeated <= keywords.TIMES
    np.testing.assert_allclose(ours, theirs, rtol=0 if exact else 1e-5)
    assert np.array_equal(ours, theirs) == exact


@pytest.mark.parametrize("given", [{"index": "IVF99,Flat"}, {"gpus": 1}])
def test_settings_of_vectors_are_refused_where_there_are_none(given):
    with pytest.raises(UserError, match="is about vectors, and ranking='bm25' uses"):
        RetrievalConfig(ranking="bm25", **given)
    assert RetrievalConfig(ranking="fused", **given)


def test_what_is_kept_is_opened_again_and_damage_is_one_line(file):
    config = RetrievalConfig(passages=str(file), ranking="bm25", bm25_b=0.5)
    passages = open_passages(config)
    first = keywords.open_or_build(config, passages, progress=False)
    again = keywords.open_or_build(config, passages, progress=False, limit=1)
    assert again.search(QUERIES, 9) == first.search(QUERIES, 9)
    folder = keywords.folder_of(config, passages)
    (folder / "params.index.json").write_text("{}")
    with pytest.raises(UserError, match=r"damaged index .*delete the folder"):
        keywords.open_or_build(config, passages, progress=False)


def test_other_passages_and_settings_have_other_indexes(file, tmp_path):
    config = RetrievalConfig(passages=str(file), ranking="bm25")
    other = RetrievalConfig(passages=str(file), ranking="bm25", bm25_k1=2.0)
    named = RetrievalConfig(passages=str(file), index_dir=str(tmp_path / "i"))
    passages = open_passages(config)
    folders = {keywords.folder_of(c, passages) for c in (config, other, named)}
    assert len(folders) == 3
    assert keywords.folder_of(named, passages).parent == tmp_path / "i.bm25"
    (tmp_path / "p.jsonl").write_text('{"contents": "... \\n!"}\n')
    silent = RetrievalConfig(passages=str(tmp_path / "p.jsonl"), ranking="bm25")
    with pytest.raises(UserError, match="has no words"):
        keywords.open_or_build(silent, Passages(silent.passages), progress=False)


def test_reciprocal_ranks_by_hand():
    first = [(7, 9.0), (3, 8.0), (5, 1.0)]
    second = [(5, 0.2), (7, 0.1)]
    assert fused([first, second], constant=1.0) == [
        (7, 1 / 2 + 1 / 3),
        (5, 1 / 4 + 1 / 2),
        (3, 1 / 3),
    ]
    assert fused([[(2, 1.0)], [(1, 1.0)], []], constant=60.0) == [
        (1, 1 / 61),
        (2, 1 / 61),
    ]


def test_a_fused_search_is_its_two_rankings_fused(file):
    config = {"passages": str(file), "lexical_dim": 512}
    both = Searcher(
        RetrievalConfig(**config, ranking="fused", fused_depth=20), progress=False
    )
    alone = [
        Searcher(RetrievalConfig(**config, ranking=ranking), progress=False)
        for ranking in ("vectors", "bm25")
    ]
    rows = {p.id: i for i, p in enumerate(both.passages)}
    for query in QUERIES:
        lists = [
            [(rows[p.id], score) for p, score in one.search([query], topk=20)[0]]
            for one in alone
        ]
        expected = fused(lists, constant=60.0)[:3]
        found = both.search([query])[0]
        assert [(rows[p.id], score) for p, score in found] == expected


def test_an_index_takes_the_memory_that_a_plan_counts(tmp_path):
    import bm25s  # noqa: F401  (not among what is measured)

    random = np.random.default_rng(4)
    known = [f"word{i:05}" for i in range(20_000)]
    # Half of all words are common ones, as in a language.
    texts = [
        [known[i] for i in random.integers(0, 200, 40)]
        + [known[i] for i in random.integers(0, len(known), 40)]
        for _ in range(4000)
    ]
    file = tmp_path / "p.jsonl"
    file.write_text("\n".join(json.dumps({"text": " ".join(t)}) for t in texts))
    config = RetrievalConfig(passages=str(file), ranking="bm25")
    passages = open_passages(config)
    pairs = sum(len(set(text)) for text in texts)
    vocabulary = len({word for text in texts for word in text})
    sizes = {"pairs": pairs, "vocabulary": vocabulary}
    tracemalloc.start()
    try:
        index = keywords.open_or_build(config, passages, progress=False)
        peak = tracemalloc.get_traced_memory()[1]
        del index
        before = tracemalloc.get_traced_memory()[0]
        index = keywords.open_or_build(config, passages, progress=False)
        assert index.search(["word00001 word19999"], 3)
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    built = keywords.bytes_to_build(len(texts), 80 * len(texts), **sizes)
    assert peak == pytest.approx(built, rel=0.1)
    mapped, kept = keywords.bytes_kept(len(texts), **sizes)
    files = keywords.folder_of(config, passages).glob("*.npy")
    assert sum(f.stat().st_size for f in files) == pytest.approx(mapped, rel=0.01)
    assert held == pytest.approx(kept, rel=0.1)
