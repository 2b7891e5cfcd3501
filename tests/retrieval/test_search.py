"""Search: the right passage, the same each time, and no index of something else."""

import json
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import faiss
import jax.monitoring
import numpy as np
import pytest

from models.errors import UserError
from retrieval import lexical
from retrieval.index import Index
from retrieval.lexical import LexicalEncoder, words
from retrieval.search import Passage, RetrievalConfig, Searcher, format_passages
from scripts import build_index

CORPUS = {
    "Bern": "Capital of Switzerland. The Aare flows around its old town.",
    "Aare": "A river of Switzerland that passes Bern, Thun and Aarau.",
    "Thun": "A town on the Aare below a lake of the same name, south of Bern.",
    "Aarau": "A town named after its meadows. Bern ruled Aarau; Bern lost Aarau.",
    "North Bridge": "It joins two quarters. A guild of masons built it.",
    "Bridge of the North": "A novel of a mason who never built anything.",
    "Élan Vital": "A guild of dancers founded in the north of Thun.",
}


def write_corpus(file, corpus=CORPUS):
    rows = [{"contents": f'"{title}"\n{text}'} for title, text in corpus.items()]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return str(file)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    file = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    return RetrievalConfig(passages=write_corpus(file), lexical_dim=512)


@pytest.fixture(scope="module")
def searcher(config):
    return Searcher(config, progress=False)


def titles(found):
    return [passage.title.strip('"') for passage, _ in found]


@pytest.mark.example(103)
def test_worked_example_103_passages_as_a_model_reads_them():
    passages = [
        Passage("0", '"Bern"', "Capital of\nSwitzerland"),
        Passage("1", '"Aare"', "A river"),
    ]
    assert format_passages(passages) == (
        'Doc 1 (Title: "Bern")\nCapital of\nSwitzerland\n\n'
        'Doc 2 (Title: "Aare")\nA river'
    )
    assert format_passages([]) == ""


def test_an_entity_name_finds_the_passage_titled_so_first(searcher):
    for title in CORPUS:
        question = f"Please tell me what is known of {title.upper()}, and why?"
        assert titles(searcher.search([question])[0])[0] == title
    assert titles(searcher.search(["which guild of dancers"])[0])[0] == "Élan Vital"
    assert titles(searcher.search(["elan vital"])[0])[0] == "Élan Vital"


def test_scores_fall_and_topk_is_kept(searcher):
    (found,) = searcher.search(["a town on the river Aare near Bern"], topk=5)
    scores = [score for _, score in found]
    assert len(found) == 5 and scores == sorted(scores, reverse=True)
    assert len(searcher.search(["Bern"])[0]) == 3
    assert len(searcher.search(["Bern"], topk=99)[0]) == len(CORPUS)


def test_a_query_that_says_nothing_finds_nothing(searcher):
    assert searcher.search([]) == []
    found = searcher.search(["", " \n", "Bern", "zzz qqq", "\ud800"])
    assert [len(passages) for passages in found] == [0, 0, 3, 0, 0]


def test_results_do_not_depend_on_company_or_threads(searcher):
    queries = [f"{a} and {b}" for a in CORPUS for b in CORPUS]
    alone = [searcher.search([query])[0] for query in queries]
    assert searcher.search(queries) == alone
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda q: searcher.search([q])[0], queries))
    assert threaded == alone


def test_equal_scores_are_ordered_by_passage_number(tmp_path):
    file = tmp_path / "same.jsonl"
    rows = ['{"contents": "same\\ntext"}'] * 40 + ['{"contents": "other\\nwords"}']
    file.write_text("\n".join(rows))
    searcher = Searcher(RetrievalConfig(passages=str(file)), progress=False)
    (found,) = searcher.search(["same text"], topk=5)
    assert [passage.id for passage, _ in found] == ["0", "1", "2", "3", "4"]


def test_lexical_vectors_are_the_same_in_every_process(config, searcher):
    code = (
        "from retrieval.lexical import LexicalEncoder as E; e = E(64, 0.3);"
        "t = ['a b\\nc d', 'e\\nf']; e.fit(t); print(e.encode_passages(t).tobytes())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_lexical_vectors_are_unit_and_weigh_by_rarity():
    encoder = LexicalEncoder(1024, 0.3)
    corpus = ["x\ncommon rare"] + [f"y{i}\ncommon word{i}" for i in range(20)]
    encoder.fit(corpus)
    vectors = encoder.encode_passages(corpus)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    queries = encoder.encode_queries(["common rare", "unknown"])
    assert (queries[0] @ vectors.T).argmax() == 0
    np.testing.assert_array_equal(queries[1], 0)
    assert words("The Élan, O'Brien’s 2nd") == ["the", "elan", "o", "brien", "s", "2nd"]


def test_what_is_asked_does_not_fill_the_memory():
    """A query has dozens of word sequences, hardly one of which comes again."""
    encoder = LexicalEncoder(64, 0.3)
    encoder.fit(["Title\nsome words"])
    caches = [x for x in vars(lexical).values() if hasattr(x, "cache_info")]
    before = sum(cache.cache_info().currsize for cache in caches)
    draw = random.Random(0)
    known = [f"asked{number}" for number in range(20)]
    for _ in range(200):
        encoder.encode_queries([" ".join(draw.choices(known, k=30))])
    grown = sum(cache.cache_info().currsize for cache in caches) - before
    assert caches and grown <= len(known)


def test_an_index_is_opened_again_and_never_for_something_else(tmp_path, capsys):
    file = tmp_path / "corpus.jsonl"
    config = RetrievalConfig(
        passages=write_corpus(file), lexical_dim=64, index_dir=str(tmp_path / "index")
    )
    first = Searcher(config).search(["Bern"])
    assert "index (lexical)" in capsys.readouterr().err
    assert Searcher(config).search(["Bern"]) == first
    assert "index (lexical)" not in capsys.readouterr().err

    with pytest.raises(UserError, match="an index of another encoder") as caught:
        Searcher(replace(config, lexical_dim=32))
    assert "\n" not in str(caught.value)
    write_corpus(file, CORPUS | {"Basel": "A city on the Rhine."})
    with pytest.raises(UserError, match="an index of other passages"):
        Searcher(config)
    free = replace(config, index_dir="")
    assert titles(Searcher(free).search(["Basel"])[0])[0] == "Basel"
    Searcher(replace(free, lexical_dim=32))  # each pair has a folder of its own
    made = sorted(entry.name for entry in (tmp_path / "corpus.jsonl.index").iterdir())
    assert len(made) == 3 and made[-1] == "passages.npz"


def test_a_damaged_or_impossible_index_is_one_clear_line(tmp_path):
    config = RetrievalConfig(
        passages=write_corpus(tmp_path / "c.jsonl"), index_dir=str(tmp_path / "index")
    )
    Searcher(config, progress=False)
    vectors = tmp_path / "index" / "vectors.faiss"
    vectors.write_bytes(vectors.read_bytes()[:-10])
    with pytest.raises(UserError, match="damaged index") as caught:
        Searcher(config)
    assert "\n" not in str(caught.value)

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(UserError, match="not an index"):
        Searcher(replace(config, index_dir=str(tmp_path / "mine")))
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"
    with pytest.raises(UserError, match="build_limit=3"):
        Searcher(replace(config, index_dir="", build_limit=3))
    with pytest.raises(UserError, match="encoder_path"):
        Searcher(replace(config, encoder="transformer"))


def test_what_is_not_our_own_unfinished_work_is_not_deleted(tmp_path, monkeypatch):
    config = RetrievalConfig(
        passages=write_corpus(tmp_path / "c.jsonl"), index_dir=str(tmp_path / "index")
    )
    Searcher(config, progress=False)
    folder = tmp_path / "index"
    (folder / "index.json").unlink()
    kept = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert set(kept) == {"vectors.faiss", "encoder.npz", "passages.npz"}
    with pytest.raises(UserError, match="not all of one: choose another"):
        Searcher(config, progress=False)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == kept

    encode = LexicalEncoder.encode_passages
    mine = tmp_path / "other" / "notes.txt"

    def meanwhile(self, contents):
        mine.write_text("keep")
        return encode(self, contents)

    monkeypatch.setattr(LexicalEncoder, "encode_passages", meanwhile)
    with pytest.raises(UserError, match="has files that are not an index"):
        Searcher(replace(config, index_dir=str(mine.parent)), progress=False)
    assert mine.read_text() == "keep"
    assert [file.name for file in tmp_path.glob(".*")] == []


def test_a_build_that_fails_leaves_nothing(tmp_path, monkeypatch):
    config = RetrievalConfig(passages=write_corpus(tmp_path / "c.jsonl"))
    monkeypatch.setattr(
        LexicalEncoder, "encode_passages", lambda *_: (_ for _ in ()).throw(KeyError)
    )
    with pytest.raises(KeyError):
        Searcher(config, progress=False)
    left = [entry.name for entry in (tmp_path / "c.jsonl.index").iterdir()]
    assert left == ["passages.npz"]


def test_a_passage_whose_vector_is_not_finite_is_refused_at_the_build(
    tmp_path, monkeypatch
):
    encode = LexicalEncoder.encode_passages

    def broken(self, contents):
        vectors = encode(self, contents)
        vectors[3, 5] = np.nan
        return vectors

    monkeypatch.setattr(LexicalEncoder, "encode_passages", broken)
    config = RetrievalConfig(passages=write_corpus(tmp_path / "c"), lexical_dim=512)
    with pytest.raises(UserError, match="encoder gives passage 3 a vector that is not"):
        Searcher(config, progress=False)
    assert not list(tmp_path.glob("c.index/*/index.json"))


def test_what_is_not_finite_finds_nothing_and_is_never_found(config, monkeypatch):
    searcher = Searcher(config, progress=False)
    stored = searcher._index.vectors.reconstruct_n(0, len(CORPUS))
    stored[2:] = np.nan  # an index that an older version built
    vectors = faiss.IndexFlatIP(stored.shape[1])
    vectors.add(stored)
    searcher._index = Index(vectors)
    assert titles(searcher.search(["Aare Bern"], topk=3)[0]) == ["Aare", "Bern"]
    encode = LexicalEncoder.encode_queries

    def broken(self, queries):
        known = encode(self, queries)
        known[1] = np.nan
        return known

    monkeypatch.setattr(LexicalEncoder, "encode_queries", broken)
    first, second = searcher.search(["Aare", "Bern"], topk=1)
    assert titles(first) == ["Aare"] and second == []


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory):
    """A random BERT with a tokenizer of the corpus's words."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    folder = tmp_path_factory.mktemp("bert")
    known = sorted({w for item in CORPUS.items() for t in item for w in words(t)})
    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])}
    vocabulary |= {w: i + 4 for i, w in enumerate(known)}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer()
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    transformers.PreTrainedTokenizerFast(tokenizer_object=raw).save_pretrained(folder)
    torch.manual_seed(0)
    shape = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    transformers.BertModel(shape).save_pretrained(folder)
    return str(folder)


def test_a_transformer_searches_without_compiling_after_its_start(config, bert_folder):
    config = replace(
        config,
        encoder="transformer",
        encoder_path=bert_folder,
        max_passage_tokens=40,
        max_query_tokens=64,
        query_prefix="",
        passage_prefix="",
    )
    searcher = Searcher(config, progress=False)
    compiled = []

    def listen(event, duration, **_):
        if "backend_compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        queries = [f'"{title}"\n{text}' for title, text in CORPUS.items()]
        found = searcher.search(queries, topk=1)
        assert [titles(each)[0] for each in found] == list(CORPUS)
        np.testing.assert_allclose([f[0][1] for f in found], 1, atol=1e-5)
        assert searcher.search(["bern " * 300])[0]
        for query, together in zip(queries, found, strict=True):
            assert searcher.search([query], topk=1)[0] == together
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not compiled
    with pytest.raises(UserError, match="the encoder's limit of 64"):
        Searcher(replace(config, max_query_tokens=65))


def test_the_script_builds_and_says_what_is_wrong(tmp_path, capsys):
    file = write_corpus(tmp_path / "c.jsonl")
    assert build_index.main(["--passages", file, "--lexical-dim", "64"]) == 0
    assert "7 passages, 64 dimensions" in capsys.readouterr().out
    for arguments, words_said in [
        (["--passages", file + "x"], "no such passages file"),
        (["--no-such-field", "1"], "no such field"),
        (["--top-k", "many"], "many"),
    ]:
        with pytest.raises(UserError, match=words_said) as caught:
            build_index.main(arguments)
        assert "\n" not in str(caught.value)
