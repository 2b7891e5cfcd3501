"""Your text: every form is opened, indexed and searched, and its bad rows are named."""

import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.errors import UserError
from retrieval import forms, store
from retrieval.config import RetrievalConfig
from retrieval.passages import Passage
from retrieval.search import Searcher, open_passages
from scripts import build_index

BEIR = [
    {"_id": "d1", "title": "Bern", "text": "Capital of Switzerland.", "metadata": {}},
    {"_id": "d2", "title": "Aare", "text": 'A river, "the" river,\nof Bern.'},
    {"_id": "d3", "title": "", "text": "Zürich has no title."},
    {"_id": "d4", "title": "Bern", "text": "Capital of Switzerland."},
]
EXPECTED = [
    Passage("d1", "Bern", "Capital of Switzerland."),
    Passage("d2", "Aare", 'A river, "the" river,\nof Bern.'),
    Passage("d3", "", "Zürich has no title."),
]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def zstd(data):
    return pa.Codec("zstd").compress(data, asbytes=True)


def table(rows, separator):
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=separator)
    writer.writerow(["title", "_id", "text", "other"])
    writer.writerows([r["title"], r["_id"], r["text"], "x"] for r in rows)
    return text.getvalue().encode()


def parquet(rows):
    out = io.BytesIO()
    names = ("_id", "title", "text")
    pq.write_table(pa.table({n: [r[n] for r in rows] for n in names}), out)
    return out.getvalue()


# Form -> files in it, by name, with the rows of BEIR.
WAYS = {
    forms.JSON_LINES: {"corpus.jsonl": lines(BEIR)},
    forms.COMPRESSED: {
        "corpus.jsonl.gz": gzip.compress(lines(BEIR)),
        "parts.jsonl.gz": gzip.compress(lines(BEIR[:2]))
        + gzip.compress(lines(BEIR[2:])),
        "corpus.zst": zstd(lines(BEIR)),
        "parts.jsonl.zst": zstd(lines(BEIR[:1])) + zstd(lines(BEIR[1:])),
    },
    forms.TABLE: {
        "corpus.csv": b"\xef\xbb\xbf" + table(BEIR, ","),
        "semicolons.csv": table(BEIR, ";"),
        "tabs.csv": table(BEIR, "\t"),
        "corpus.TSV": table(BEIR, "\t"),
        "corpus.tsv.gz": gzip.compress(table(BEIR, "\t")),
        "corpus.csv.zst": zstd(table(BEIR, ",")),
    },
    forms.PARQUET: {"corpus.parquet": parquet(BEIR)},
    forms.FOLDER: {
        "folder": {
            "d1.md": b"# Bern\r\n\r\nCapital of Switzerland.\r\n",
            "a/d2.txt": b'A river, "the" river,\nof Bern.',
            "b/d3.md": "Zürich has no title.".encode(),
            "d4.md": b"# Bern\n\nCapital of Switzerland.",
            ".hidden/d5.txt": b"hidden",
            "d6.txt": b" \n",
            "picture.png": b"\x89",
        }
    },
}


def write(folder, name, content):
    path = folder / name
    if isinstance(content, dict):
        for inner, data in content.items():
            (path / inner).parent.mkdir(parents=True, exist_ok=True)
            write(path, inner, data)
    else:
        path.write_bytes(content)
    return path


def kept_rows(config):
    text = store.find(config).lines.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_every_form_that_the_documentation_lists_is_tried():
    assert set(WAYS) == set(forms.FORMS)


@pytest.mark.parametrize(
    ("form", "name"), [(form, name) for form, files in WAYS.items() for name in files]
)
@pytest.mark.parametrize("ranking", ["vectors", "bm25", "fused"])
def test_every_form_is_opened_indexed_and_searched(tmp_path, form, name, ranking):
    path = write(tmp_path, name, WAYS[form][name])
    assert forms.form_of(path) is form
    config = RetrievalConfig(passages=str(path), ranking=ranking, lexical_dim=256)
    searcher = Searcher(config, progress=False)
    passages = list(searcher.passages)
    if form is forms.FOLDER:
        assert passages == [
            Passage("a/d2.txt", "d2", EXPECTED[1].text),
            Passage("b/d3.md", "d3", EXPECTED[2].text),
            Passage("d1.md", "Bern", EXPECTED[0].text),
        ]
    elif form is forms.JSON_LINES:  # where a passage is its line
        assert passages == [*EXPECTED, Passage("d4", *passages[0].contents.split("\n"))]
    else:
        assert passages == EXPECTED
    (found,) = searcher.search(["zürich without a title"], topk=1)
    assert found[0][0].text == EXPECTED[2].text
    assert bool(store.find(config)) == form.copied == store.is_needed(config)
    if form.copied:
        counts = store.find(config).counts
        assert (counts.duplicates, counts.passages) == (1, 3)
        assert counts.empty == 0  # a file without words is no text
        kept = kept_rows(config)
        assert all(row["source"].startswith(name) for row in kept)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"text": "x"}\n\n{"text": 1}\n', "a.jsonl:3: .*text is '1'"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n\n[]\n'), "gz:3: .*not an obj"),
        ("a.zst", zstd(b'{"text": "x"}\n{"text"'), "zst:2: .*not valid JSON"),
        (
            "a.zst",
            zstd(b'{"text": "x"}\n' * 99)[:-4],
            "after line .*get the file again",
        ),
        ("a.jsonl.gz", b"no gzip", "gz: can't be read after line 0"),
        ("a.csv", b"title,text\na,b\n\nc,d,e\n", "csv:4: .*3 fields.*header has 2"),
        ("a.csv", b'text\na\n"b\nc\n', "csv:4: .*not valid CSV .unexpected end"),
        ("a.csv", b'text\na\n"b\nc"\nd\xff\n', "csv:5: .*not UTF-8"),
        (
            "a.csv",
            b"words,title\na,b\n",
            'csv:2: .*no string "contents" or "text": col',
        ),
        ("a.csv", b"", "a.csv: has no passages"),
        ("a.csv", b"text\n\n", "a.csv: has no passages"),
        ("a.parquet", parquet(BEIR)[:-9], "after row 0 .*give a whole Parquet file"),
        (
            "a.parquet",
            parquet([*BEIR[:2], {"_id": "x", "title": "t", "text": None}]),
            "a.parquet: row 3: .*no string .*text is 'None'",
        ),
        ("a", {"b.txt": b"x", "c/d.md": b"1\n2\n\xff"}, "a/c/d.md:3: .*not UTF-8"),
        ("a", {"b.html": b"x"}, "a: has no .txt or .md file"),
        ("a", {"b.txt": b"\n"}, "a: has no passages"),
    ],
    # Compressed bytes have their time in them: as ids, workers would not agree on them.
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_row_is_one_line_with_file_and_place(tmp_path, name, content, said):
    path = write(tmp_path, name, content)
    with pytest.raises(UserError, match=said) as caught:
        open_passages(RetrievalConfig(passages=str(path)))
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    left = [file.name for file in tmp_path.rglob("*") if "draft" in file.name]
    assert left == []


def test_columns_may_have_other_names(tmp_path):
    path = write(tmp_path, "a.csv", b"key,heading,body\n7,Bern,A town.\n")
    named = {"id_column": "key", "title_column": "heading", "text_column": "body"}
    config = RetrievalConfig(passages=str(path), **named)
    assert list(open_passages(config)) == [Passage("7", "Bern", "A town.")]
    path = write(tmp_path, "b.parquet", parquet(BEIR))
    config = RetrievalConfig(passages=str(path), text_column="_id")
    assert [p.text for p in open_passages(config)] == ["d1", "d2", "d3", "d4"]


@pytest.mark.parametrize("option", ["id_column", "title_column", "text_column"])
@pytest.mark.parametrize("form", WAYS)
def test_a_column_that_no_row_has_is_refused(tmp_path, form, option):
    name, content = next(iter(WAYS[form].items()))
    path = write(tmp_path, name, content)
    config = RetrievalConfig(passages=str(path), **{option: "titel"})
    with pytest.raises(UserError, match="titel") as caught:
        open_passages(config)
    said = str(caught.value)
    assert "\n" not in said and str(path) in said and f"retrieval.{option}" in said
    assert ("_id, title, text" in said or "title, _id, text" in said) == (
        form is not forms.FOLDER
    )


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_column_may_be_in_some_rows_only(tmp_path, monkeypatch, name):
    monkeypatch.setattr("retrieval.passages.EAGER_BYTES", 0)  # as of a large file
    rows = [{"text": "a"}, {"text": "b", "heading": "B"}, {"text": "c"}]
    data = lines(rows)
    path = write(tmp_path, name, gzip.compress(data) if name[-1] == "z" else data)
    config = RetrievalConfig(passages=str(path), title_column="heading")
    assert [p.title for p in open_passages(config)] == ["", "B", ""]
    with pytest.raises(UserError, match=r"no row has a column 'key' .*are text\)"):
        open_passages(RetrievalConfig(passages=str(path), id_column="key"))


def test_one_text_is_a_corpus_and_json_lines_may_have_its_name(tmp_path):
    book = write(tmp_path, "book.md", b"# Bern\n\nA town.\n\nOf bears and more.\n")
    config = RetrievalConfig(passages=str(book), cut_tokens=4)
    assert [(p.id, p.title, p.text) for p in open_passages(config)] == [
        ("book.md#1", "Bern", "A town."),
        ("book.md#2", "Bern", "Of bears and more."),
    ]
    assert {row["source"] for row in kept_rows(config)} == {"book.md"}
    book.write_bytes(b"# Bern\n\nA city.\n")
    assert [p.text for p in open_passages(config)] == ["A city."]
    named = write(tmp_path, "rows.txt", b"\xef\xbb\xbf\n " + lines(BEIR))
    assert forms.form_of(named) is forms.JSON_LINES
    bad = write(tmp_path, "bad.txt", b"a\n\xff")
    with pytest.raises(UserError, match=r"bad.txt:2: .*not UTF-8"):
        open_passages(RetrievalConfig(passages=str(bad)))


def test_texts_in_fields_longer_than_csv_reads_by_itself(tmp_path):
    path = write(tmp_path, "a.csv", b"text\n" + b"word " * 40_000 + b"\n")
    (passage,) = open_passages(RetrievalConfig(passages=str(path)))
    assert len(passage.text) == 200_000


def test_long_texts_are_cut_and_know_where_they_are_from(tmp_path):
    text = "One two three.\n\nFour five.\n \nsix seven eight nine ten eleven\n\nend"
    path = write(tmp_path, "a.jsonl", lines([{"text": text, "title": "T"}]))
    config = RetrievalConfig(passages=str(path), cut_tokens=5, cut_overlap=2)
    passages = list(open_passages(config))
    assert [(p.id, p.title, p.text) for p in passages] == [
        ("0#1", "T", "One two three.\n\nFour five."),
        ("0#2", "T", "six seven eight nine ten"),
        ("0#3", "T", "nine ten eleven"),
        ("0#4", "T", "end"),
    ]
    kept = kept_rows(config)
    assert [text[a:b] for a, b in (row["span"] for row in kept)] == [
        p.text for p in passages
    ]
    assert {row["source"] for row in kept} == {"a.jsonl:1"}
    assert store.find(config).counts == store.Counts(texts=1, cut=1, passages=4)


def test_a_store_is_written_once_and_again_for_other_text_or_settings(tmp_path):
    path = write(tmp_path, "a.csv", b"text\na b c\n")
    config = RetrievalConfig(passages=str(path))
    first = open_passages(config)
    file = store.find(config).lines
    written = file.stat().st_mtime_ns
    assert list(open_passages(config)) == list(first)
    assert file.stat().st_mtime_ns == written
    cut = RetrievalConfig(passages=str(path), cut_tokens=2)
    assert [p.text for p in open_passages(cut)] == ["a b", "c"]
    assert file.stat().st_mtime_ns == written
    write(tmp_path, "a.csv", b"text\nother\n")
    assert store.find(config) is None
    assert [p.text for p in open_passages(config)] == ["other"]
    file.write_bytes(file.read_bytes()[:-5])  # cut off by hand
    assert [p.text for p in open_passages(config)] == ["other"]


def test_a_moved_corpus_has_the_same_passages(tmp_path):
    hashes = []
    for name in ("here", "there"):
        path = tmp_path / name
        path.mkdir()
        write(path, "a.csv", b"text\na b c\n")
        hashes.append(open_passages(RetrievalConfig(passages=str(path / "a.csv"))).hash)
    assert hashes[0] == hashes[1]


def test_duplicates_stay_beside_an_index_whose_labels_are_lines(tmp_path):
    path = write(tmp_path, "a.jsonl", lines([{"text": "a b"}] * 3))
    config = RetrievalConfig(passages=str(path))
    Searcher(config, progress=False)
    assert len(Searcher(config, progress=False).passages) == 3
    without = RetrievalConfig(passages=str(path), store="always")
    assert len(Searcher(without, progress=False).passages) == 1
    assert len(Searcher(config, progress=False).passages) == 3


def test_many_passages_want_build_index_first(tmp_path, capsys):
    rows = "".join(f"text {i}\n" for i in range(40))
    path = write(tmp_path, "a.csv", f"text\n{rows}text 3\n".encode())
    config = RetrievalConfig(passages=str(path), build_limit=39, ranking="fused")
    with pytest.raises(UserError, match=r"exceed retrieval\.build_limit=39: run"):
        Searcher(config, progress=False)
    options = ["--passages", str(path), "--ranking", "fused", "--build_limit", "39"]
    assert build_index.main(options) == 0
    said = capsys.readouterr().out
    assert "40 passages of 41 texts (0 cut, 1 duplicates and 0 empty ones" in said
    assert len(Searcher(config, progress=False).search(["text 7"])[0]) == 3
