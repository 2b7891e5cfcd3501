"""Other indexes than flat: the same in any company, recall, one line of refusal."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import faiss
import numpy as np
import pytest

from models.errors import UserError
from retrieval import approximate
from retrieval.config import RetrievalConfig
from retrieval.encoders import make_encoder
from retrieval.index import Index, folder_of, open_or_build
from retrieval.lexical import LexicalEncoder
from retrieval.recall import measure
from retrieval.search import Searcher, open_passages
from scripts import build_index

DIM, COUNT = 32, 1500
TYPES = (
    "HNSW16",
    "HNSW16,SQ8",
    "SQfp16",
    "SQ8",
    "IVF16,Flat",
    "IVF16,SQfp16",
    "IVF16,PQ8x4",
    "IVF16,PQ8x4,RFlat",
    "IVF16,PQ8x4fs",
    "PQ8x4",
    "PQ2x4",  # long pieces: FAISS multiplies all queries with them at once
    "PCA16,Flat",
    "PCA16,IVF16,Flat",
)


def unit(rng, count):
    found = rng.standard_normal((count, DIM)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def vectors():
    found = unit(np.random.default_rng(0), COUNT)
    found[700:800] = found[:100]  # copies: equal scores
    return found


@pytest.fixture(autouse=True)
def two_threads():
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    yield
    faiss.omp_set_num_threads(before)


@pytest.mark.parametrize("factory", TYPES)
def test_a_query_gets_the_same_alone_in_8_and_in_256_to_the_bit(factory, vectors):
    made = approximate.make(factory, DIM)
    approximate.fill(made, vectors)
    approximate.set_parameters(made, "")
    found = Index(made)
    queries = np.concatenate([vectors[:56], unit(np.random.default_rng(1), 200)])
    scores, rows = found.search(queries, 3)
    assert scores.shape == rows.shape == (256, 3)
    for size in (1, 8):
        parts = [found.search(queries[at : at + size], 3) for at in range(0, 256, size)]
        for whole, part in zip((scores, rows), zip(*parts, strict=True), strict=True):
            np.testing.assert_array_equal(np.concatenate(part), whole)
    # Best first, and the lower number of equals first.
    assert (np.diff(scores) <= 0).all()
    assert (np.diff(rows)[np.diff(scores) == 0] > 0).all()


def test_of_copies_the_lower_number_comes_first(vectors):
    made = approximate.make("IVF16,Flat", DIM)
    approximate.fill(made, vectors)
    scores, rows = Index(made).search(vectors[700:800], 2)
    np.testing.assert_array_equal(
        rows, np.stack([np.arange(100), 700 + np.arange(100)], 1)
    )
    assert (scores[:, 0] == scores[:, 1]).all()


def test_parameters_are_the_given_ones_or_ours(vectors):
    made = approximate.make("IVF64,Flat", DIM)
    approximate.set_parameters(made, "")
    assert made.nprobe == 2
    approximate.set_parameters(made, "nprobe=7")
    assert made.nprobe == 7
    graph = approximate.make("HNSW16", DIM)
    approximate.set_parameters(graph, "")
    assert graph.hnsw.efSearch == approximate.BEAM
    approximate.set_parameters(graph, "efSearch=99")
    assert graph.hnsw.efSearch == 99
    for inside in ("PCA16,HNSW16", "HNSW16,SQ8,RFlat"):
        made = approximate.make(inside, DIM)
        approximate.set_parameters(made, "")
        assert approximate._innermost(made).hnsw.efSearch == approximate.BEAM
    for wrong in ("nprobe=3", "efSearch", "efSearch=x"):
        with pytest.raises(UserError, match="not of this index") as caught:
            approximate.set_parameters(graph, wrong)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        ("Flat", 4 * DIM),
        ("SQfp16", 2 * DIM),
        ("PQ8x4", 4),
        ("IVF16,Flat", 4 * DIM + 1 + 8),
        ("HNSW16", 4 * DIM + 2 * 16 * 4 + 12),
        ("PCA16,HNSW16", 4 * 16 + 2 * 16 * 4 + 12),
        ("HNSW16,SQ8,RFlat", DIM + 2 * 16 * 4 + 12 + 4 * DIM),
        ("IVF16,PQ8x4,RFlat", 4 + 1 + 8 + 4 * DIM),
    ],
)
def test_memory_of_a_vector(factory, expected):
    assert approximate.bytes_per_vector(factory, DIM) == expected


def test_training_is_not_slowed_by_what_a_search_has_set(vectors, monkeypatch):
    made = approximate.make("IVF16,Flat", DIM)
    approximate.fill(made, vectors)
    approximate.search(made, vectors[:2], 1)
    found, train = [], type(made).train

    def spy(self, samples):
        found.append(faiss.cvar.distance_compute_blas_threshold)
        return train(self, samples)

    monkeypatch.setattr(type(made), "train", spy)
    approximate.fill(approximate.make("IVF16,Flat", DIM), vectors)
    assert found == [20]


def write_corpus(folder, count=400):
    rng = np.random.default_rng(0)
    words = [f"w{rng.integers(10**6)}" for _ in range(300)]
    lines = []
    for number in range(count):
        title = " ".join([f"title{number}", *rng.choice(words, 2)])
        text = " ".join(rng.choice(words, 30))
        lines.append(json.dumps({"contents": f"{title}\n{text}"}))
    file = folder / "corpus.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return str(file)


@pytest.fixture
def config(tmp_path):
    return RetrievalConfig(passages=write_corpus(tmp_path), lexical_dim=64)


def test_it_is_made_from_the_flat_one_and_then_needs_it_no_more(config, monkeypatch):
    titles = [p.title for p in open_passages(config)][:50]
    exact = Searcher(config, progress=False).search(titles)
    encodes = []
    genuine = LexicalEncoder.encode_passages
    monkeypatch.setattr(
        LexicalEncoder,
        "encode_passages",
        lambda self, texts: encodes.append(1) or genuine(self, texts),
    )
    graph = replace(config, index="HNSW32")
    found = Searcher(graph, progress=False).search(titles)
    assert not encodes
    same = [
        len({p.id for p, _ in a} & {p.id for p, _ in b})
        for a, b in zip(exact, found, strict=True)
    ]
    assert sum(same) > 0.9 * 3 * 50
    passages, encoder = open_passages(config), make_encoder(config)
    flat, own = (folder_of(c, passages, encoder) for c in (config, graph))
    assert own.parent == flat
    assert {f.name for f in own.iterdir()} == {
        "vectors.faiss",
        "encoder.npz",
        "index.json",
    }
    (flat / "vectors.faiss").unlink()  # 61 GB of a large corpus
    assert Searcher(graph, progress=False).search(titles) == found


def test_an_index_dir_has_a_folder_for_each_type(config, tmp_path):
    named = replace(config, index_dir=str(tmp_path / "mine"), index="IVF4,Flat")
    Searcher(named, progress=False)
    files = {f.name for f in (tmp_path / "mine").iterdir()}
    assert {"vectors.faiss", "encoder.npz", "index.json"} <= files
    assert [name for name in files if name.startswith("IVF4_Flat-")]
    Searcher(replace(named, index="SQfp16"), progress=False)
    Searcher(replace(named, index="Flat"), progress=False)


def test_recall_is_the_share_of_what_flat_finds(config):
    passages, encoder = open_passages(config), make_encoder(config)
    flat = open_or_build(config, passages, encoder, progress=False)
    same = measure(flat, config, passages, encoder)
    assert same.shares == {3: 1.0, 10: 1.0} and same.queries == 400
    coarse = replace(config, index="IVF64,Flat", index_parameters="nprobe=1")
    worse = measure(open_or_build(coarse, passages, encoder), coarse, passages, encoder)
    every = replace(coarse, index_parameters="nprobe=64")
    best = measure(open_or_build(every, passages, encoder), every, passages, encoder)
    assert 0.1 < worse.shares[10] < 0.9 and best.shares[10] > 0.999
    (folder_of(config, passages, encoder) / "vectors.faiss").unlink()
    assert measure(flat, coarse, passages, encoder) is None
    shutil.rmtree(folder_of(config, passages, encoder))
    assert measure(flat, coarse, passages, encoder) is None


def test_build_index_says_the_recall(config, capsys):
    command = ["--passages", config.passages, "--lexical-dim", "64"]
    assert build_index.main([*command, "--index", "HNSW32"]) == 0
    said = capsys.readouterr().out
    assert "recall against Flat, 400 titles as queries: 0.9" in said or (
        "recall against Flat, 400 titles as queries: 1.000 of 3" in said
    )
    build_index.main(command)
    assert "recall" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"index": "IVF12x,Foo"}, "could not parse index string IVF12x,Foo"),
        ({"index": "PQ7"}, "should be a multiple of the number of subquantizers"),
        ({"index": "IVF4096,Flat"}, "can't be trained with 400 vectors"),
        ({"index": "HNSW16", "index_parameters": "nprobe=4"}, "not of this index"),
        ({"gpus": 1}, "no GPU part: install faiss-gpu"),
    ],
)
def test_what_faiss_cannot_do_is_one_line(config, change, words, monkeypatch):
    monkeypatch.delattr(faiss, "StandardGpuResources", raising=False)
    with pytest.raises(UserError) as caught:
        Searcher(replace(config, **change), progress=False)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    drafts = [f for f in config.index_root().rglob("*draft*")]
    assert drafts == []


def test_a_wrong_string_is_refused_before_anything_is_encoded(config):
    with pytest.raises(UserError, match=r"retrieval\.index=Flatt"):
        Searcher(replace(config, index="Flatt"), progress=False)
    assert not list(config.index_root().rglob("vectors.faiss"))


def test_settings_that_contradict_each_other_are_refused(config):
    with pytest.raises(UserError, match="a Flat index compares with every vector"):
        replace(config, index_parameters="nprobe=3")
    with pytest.raises(UserError, match="only a Flat index goes onto GPUs"):
        replace(config, index="HNSW32", gpus=2)


def test_on_gpus_it_is_sharded_in_float16_and_asked_for_all_queries_at_once(
    config, monkeypatch
):
    """FAISS's GPU part by a stand-in that searches on the CPU: no GPU was available."""
    asked = {}

    class Options(SimpleNamespace):
        pass

    class OnGpu:
        def __init__(self, flat):
            self.flat, self.ntotal, self.d = flat, flat.ntotal, flat.d
            self.calls = []

        def search(self, queries, k):
            self.calls.append(len(queries))
            return self.flat.search(queries, k)

    def clone(resources, flat, options, gpus):
        asked.update(resources=len(resources), options=options, gpus=gpus)
        return OnGpu(flat)

    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "GpuMultipleClonerOptions", Options, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu_multiple_py", clone, raising=False)
    passages, encoder = open_passages(config), make_encoder(config)
    flat = open_or_build(config, passages, encoder, progress=False)
    split = open_or_build(replace(config, gpus=2), passages, encoder, progress=False)
    assert asked["resources"] == 2 and asked["gpus"] == [0, 1]
    assert asked["options"].shard and asked["options"].useFloat16
    queries = encoder.encode_queries([p.title for p in passages][:20])
    np.testing.assert_array_equal(
        split.search(queries, 3)[1], flat.search(queries, 3)[1]
    )
    assert split.vectors.calls == [20]
    with pytest.raises(UserError, match="gpus=3: FAISS sees 2"):
        open_or_build(replace(config, gpus=3), passages, encoder, progress=False)
