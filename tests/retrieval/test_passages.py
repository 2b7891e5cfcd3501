"""Passages: what is in the file comes out, and a broken line is named."""

import json
import os

import pytest

from models.errors import UserError
from retrieval import passages as module
from retrieval.passages import Passage, Passages
from retrieval.rows import Columns


def write(file, rows, end="\n"):
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + end
    file.write_text(text, encoding="utf-8")
    return file


ROWS = [
    {"id": "a", "contents": '"Bern"\nCapital of\nSwitzerland'},
    {"contents": "Zürich"},
    {"id": 7, "contents": '"Aare"\nA river \u2028 with a separator'},
]


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\r\n"])
def test_rows_come_out_as_they_are_in_the_file(tmp_path, end):
    passages = Passages(write(tmp_path / "p.jsonl", ROWS, end))
    assert list(passages) == [
        Passage("a", '"Bern"', "Capital of\nSwitzerland"),
        Passage("1", "Zürich", ""),
        Passage("7", '"Aare"', "A river \u2028 with a separator"),
    ]
    assert len(passages) == 3 and passages[-1] == passages[2]
    assert passages[0].contents == ROWS[0]["contents"]
    with pytest.raises(IndexError):
        passages[3]


@pytest.mark.parametrize(
    ("row", "passage"),
    [
        ({"id": None, "contents": "T\nx"}, Passage("0", "T", "x")),
        (
            {"title": "Bern", "contents": "A capital."},
            Passage("0", "Bern", "A capital."),
        ),
        (
            {"title": "Bern", "contents": "One.\nTwo."},
            Passage("0", "Bern", "One.\nTwo."),
        ),
        ({"title": "Bern", "contents": '"Bern"\nText'}, Passage("0", '"Bern"', "Text")),
        ({"title": "Bern", "contents": "Bern"}, Passage("0", "Bern", "")),
        ({"title": None, "contents": "T\nx"}, Passage("0", "T", "x")),
        ({"_id": "d", "title": "T", "text": "x"}, Passage("d", "T", "x")),
        ({"title": "T\n two ", "text": "x\ny"}, Passage("0", "T two", "x\ny")),
        ({"text": "x"}, Passage("0", "", "x")),
    ],
)
def test_an_id_of_null_and_a_title_of_its_own_are_read_for_what_they_are(
    tmp_path, row, passage
):
    assert list(Passages(write(tmp_path / "p.jsonl", [row]))) == [passage]


def test_scanning_in_blocks_changes_nothing(tmp_path, monkeypatch):
    file = write(tmp_path / "p.jsonl", ROWS)
    whole = Passages(file)
    monkeypatch.setattr(module, "SCAN_BYTES", 5)
    blocks = Passages(file)
    assert list(blocks) == list(whole) and blocks.hash == whole.hash


def test_the_offset_table_is_kept_and_renewed(tmp_path):
    file = write(tmp_path / "p.jsonl", ROWS)
    first = Passages(file, cache_dir=tmp_path / "cache")
    again = Passages(file, cache_dir=tmp_path / "cache")
    assert list(again) == list(first) and again.hash == first.hash
    write(file, [*ROWS, {"contents": "new\none"}])
    os.utime(file, (1, 1))
    renewed = Passages(file, cache_dir=tmp_path / "cache")
    assert len(renewed) == 4 and renewed.hash != first.hash
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == ["passages.npz"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"contents": "cut', "not valid JSON"),
        ('{"body": "x"}', 'no string "contents" or "text": columns are body'),
        ('{"text": 5}', 'no string "contents" or "text": text is .5.'),
        ('{"contents": 5}', 'no string "contents"'),
        ("[1]", 'no string "contents"'),
        ('{"contents": "x", "id": true}', "id True is neither text nor a whole number"),
        ('{"contents": "x", "id": [1]}', r"id \[1\] is neither"),
        ('{"contents": "x", "title": 5}', "title 5 is no text"),
        ("\udc80", "not valid JSON"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, reason, monkeypatch):
    file = tmp_path / "p.jsonl"
    text = '{"contents": "a\\nb"}\n\n' + line + '\n{"contents": "c"}\n'
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=reason) as caught:
        Passages(file)
    assert f"{file}:3:" in str(caught.value) and "\n" not in str(caught.value)
    monkeypatch.setattr(module, "EAGER_BYTES", 0)
    lazy = Passages(file)
    assert lazy[0].title == "a" and lazy[2].title == "c"
    with pytest.raises(UserError, match=reason):
        lazy[1]


def test_no_file_or_nothing_in_it_is_one_clear_line(tmp_path):
    (tmp_path / "blank.jsonl").write_text("\n \n")
    (tmp_path / "empty.jsonl").write_text("")
    for path, words in [
        ("", "no passages given"),
        (tmp_path / "none.jsonl", "no such passages file"),
        (tmp_path / "empty.jsonl", "has no passages"),
        (tmp_path / "blank.jsonl", "has no passages"),
    ]:
        with pytest.raises(UserError, match=words):
            Passages(path)


def test_a_damaged_table_of_offsets_is_made_again(tmp_path):
    file, cache = write(tmp_path / "p.jsonl", ROWS), tmp_path / "cache"
    whole = Passages(file, cache_dir=cache)
    table = cache / "passages.npz"
    content = table.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for damaged in (b"", content[:-30], b"\0" * len(content), b"PK", flipped):
        table.write_bytes(damaged)
        again = Passages(file, cache_dir=cache)
        assert (list(again), again.hash) == (list(whole), whole.hash)
        assert table.read_bytes() == content


HALF = '{"id": "x", "contents": "a\\ud800 b\\ntext"}'


@pytest.mark.parametrize("eager", [True, False])
def test_half_a_surrogate_pair_is_named_by_line_or_replaced(
    tmp_path, monkeypatch, eager
):
    whole = '{"contents": "\\ud83d\\ude00\\\\ud800\\ntext"}'
    lines = [whole, "", HALF]
    file = tmp_path / "p.jsonl"
    file.write_text("\n".join(lines))
    if not eager:
        monkeypatch.setattr(module, "EAGER_BYTES", 0)
    for _ in range(2):  # also with the table that the first one kept
        with pytest.raises(UserError, match=r"p\.jsonl:3: .*half a surrogate pair"):
            Passages(file, cache_dir=tmp_path / "cache")
    replaced = Passages(file, bad_text="replace", cache_dir=tmp_path / "cache")
    assert [p.title for p in replaced] == ["\U0001f600\\ud800", "a? b"]
    for bad in (b'{"contents": "\xed\xa0\x80"}', b'{"contents": "", "id": "\\uDC00"}'):
        file.write_bytes(bad)
        with pytest.raises(UserError, match=r"p\.jsonl:1: .*half a surrogate pair"):
            Passages(file)


def test_columns_of_other_names_are_other_passages_of_the_same_file(tmp_path):
    row = {"key": 3, "heading": "H", "body": "b", "text": "t"}
    file = write(tmp_path / "p.jsonl", [row])
    named = Columns(id="key", title="heading", text="body")
    passages = Passages(file, columns=named, cache_dir=tmp_path / "cache")
    assert list(passages) == [Passage("3", "H", "b")]
    usual = Passages(file, cache_dir=tmp_path / "cache")
    assert list(usual) == [Passage("0", "", "t")]
    assert usual.hash != passages.hash
    with pytest.raises(
        UserError, match=r'p\.jsonl:1: .*no string "words": columns are'
    ):
        Passages(file, columns=Columns(text="words"))
