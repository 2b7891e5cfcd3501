"""Challenger prompts: rows of the method's permutation, documents cut by tokens."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import configs
from models.chat import ChatRenderer
from models.errors import UserError
from retrieval.passages import Passage, Passages
from scope_jax.method.compat import OFF, Compat
from scope_jax.selfplay import documents
from scope_jax.selfplay.documents import (
    LONGEST,
    challenger_prompts,
    check_heldout,
    document_text,
    source_document,
    truncator,
)
from tests.scope_jax.inference.inference_world import byte_tokenizer


@pytest.fixture(scope="module")
def renderer():
    return ChatRenderer.from_tokenizer(byte_tokenizer())


@pytest.fixture
def passages(tmp_path):
    path = tmp_path / "p.jsonl"
    lines = [f'{{"id": "{i}", "contents": "T{i}\\nabc {i}\\nmore"}}' for i in range(7)]
    path.write_text("\n".join(lines) + "\n")
    return Passages(path)


def rows(passages, renderer, heldout=0, **options):
    config = configs.load("ci")
    documents = replace(config.documents, max_tokens=12, heldout=heldout)
    config = replace(config, documents=documents)
    return challenger_prompts(passages, renderer, config=config, **options)


@pytest.mark.quirk(54)
def test_a_document_is_its_whole_text_or_as_released_the_first_line():
    assert document_text("T", "one") == "(Title: T)\none\n"
    assert document_text("T", "one\ntwo\n") == "(Title: T)\none\ntwo\n"
    assert document_text("T", "## A\n\none\n\n## B", first_line=True) == (
        "(Title: T)\n## A\n"
    )
    for blank in ("\n", "\r\n \t\n\n"):
        assert document_text("T", f"{blank}  one\ntwo") == "(Title: T)\n  one\ntwo\n"


@pytest.mark.parametrize(
    ("compat", "shown"), [(OFF, "abc 0\nmore\n"), (Compat.released(), "abc 0\n")]
)
@pytest.mark.quirk(54)
def test_the_challenger_reads_all_lines_unless_released(
    passages, renderer, compat, shown
):
    config = configs.load("ci")
    documents = replace(config.documents, heldout=0)
    config = replace(config, documents=documents, compat=compat)
    assert source_document(passages[0], renderer, config) == f"(Title: T0)\n{shown}"
    found = challenger_prompts(passages, renderer, count=7, seed=1, config=config)
    assert f"(Title: T0)\n{shown}" in [row.document.text for row in found]


def test_of_a_book_no_more_is_tokenized_than_a_document_can_have(renderer):
    seen = []
    spying = SimpleNamespace(
        cut_text=lambda text, limit: seen.append(text) or renderer.cut_text(text, limit)
    )
    config = configs.load("ci")
    most = config.documents.max_tokens
    book = Passage("0", "T", "word\n" * 1_000_000)
    assert len(source_document(book, spying, config)) == most
    assert len(seen[0]) == LONGEST * most


@pytest.mark.quirk(50)
def test_documents_are_cut_by_tokens(passages, renderer):
    assert renderer.cut_text("abcdef", 4) == "abcd"
    assert renderer.cut_text("abc", 4) == "abc"
    [row] = rows(passages, renderer, count=1, seed=1)
    assert len(row.document.text) == 12


def test_tool_text_says_that_it_was_cut(renderer):
    cut = truncator(3, "tokens", renderer)
    assert cut("abcd") == "abc...(truncated)"
    assert cut("abc") == "abc"


@pytest.mark.parametrize("limit", range(12))
def test_text_is_cut_at_a_character(renderer, limit):
    """Each letter but the ASCII ones is two, three or four tokens here."""
    text = "Straße漢🙂"
    short = renderer.cut_text(text, limit)
    assert text.startswith(short)
    bytes_of = [len(text[:n].encode()) for n in range(len(text) + 1)]
    assert len(short) == max(n for n, size in enumerate(bytes_of) if size <= limit)
    if limit < 14:
        shown = truncator(limit, "tokens", renderer)(text)
        assert shown == short + "...(truncated)"


@pytest.mark.quirk(26)
def test_rows_follow_numpys_permutation_and_batches_go_on_in_it(passages, renderer):
    order = np.random.default_rng(5).permutation(7)
    first = rows(passages, renderer, count=3, seed=5)
    second = rows(passages, renderer, count=3, seed=5, offset=3)
    ids = [row.document.id for row in first + second]
    assert ids == [str(i) for i in order[:6]]


@pytest.mark.quirk(25)
def test_a_batch_of_its_own_draws_other_types_from_the_same_documents_order(
    passages, renderer
):
    one = rows(passages, renderer, count=40, seed=5)
    other = rows(passages, renderer, count=40, seed=5, draw_seed=6)
    assert [r.document.id for r in one] == [r.document.id for r in other]
    assert [r.task_type for r in one] != [r.task_type for r in other]


def test_the_corpus_is_permuted_once_for_all_steps_of_a_stage(
    passages, renderer, monkeypatch
):
    drawn = []
    make = np.random.default_rng
    monkeypatch.setattr(
        documents.np.random,
        "default_rng",
        lambda seed: drawn.append(seed) or make(seed),
    )
    seed = 90_001  # of no other test
    steps = [rows(passages, renderer, count=9, seed=seed, only=[i]) for i in range(9)]
    assert drawn == [seed]
    assert [row for step in steps for row in step] == rows(
        passages, renderer, count=9, seed=seed
    )


def test_only_some_rows_are_the_same_rows(passages, renderer):
    whole = rows(passages, renderer, count=10, seed=5)
    some = rows(passages, renderer, count=10, seed=5, only=[7, 2])
    assert some == [whole[7], whole[2]]


def test_the_last_passages_are_kept_for_evaluation(passages, renderer):
    """They are no documents; without any held out the order is as it always was."""
    found = rows(passages, renderer, heldout=3, count=8, seed=5)
    order = np.random.default_rng(5).permutation(4)
    assert [row.document.id for row in found] == [str(i) for i in order] * 2
    all_of_them = rows(passages, renderer, count=7, seed=5)
    assert {row.document.id for row in all_of_them} == {str(i) for i in range(7)}


@pytest.mark.parametrize("heldout", [7, -1])
def test_what_cannot_be_held_out_is_refused_in_one_line(heldout):
    check_heldout(0, 7)
    check_heldout(6, 7)
    with pytest.raises(UserError, match=rf"heldout={heldout}: of 7 passages, 0 to 6 "):
        check_heldout(heldout, 7)
