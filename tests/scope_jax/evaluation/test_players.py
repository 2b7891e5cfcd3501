"""Who answers in evaluations."""

import contextlib
from dataclasses import replace
from types import SimpleNamespace

import pytest

import configs
from retrieval.config import RetrievalConfig
from scope_jax.evaluation import players, searched


class Enough(Exception):
    pass


def test_a_model_is_held_in_the_type_of_the_configuration(monkeypatch):
    def load(path, *, mesh, dtype="auto"):
        raise Enough(dtype)

    monkeypatch.setattr(players.hf, "load", load)
    entry, stack = SimpleNamespace(path="somewhere"), contextlib.ExitStack()
    with pytest.raises(Enough, match="float32"):
        players._engine(configs.load("tiny"), entry, None, None, stack)


def test_what_is_searched_is_part_of_what_answers_depend_on(tmp_path):
    """Another text, another ranking or another tool are other answers."""
    config = configs.load("ci")
    assert searched.in_words(config) == "demo"  # as in answers of older versions
    told = replace(config.retrieval, ranking="fused", cut_tokens=9, passages="a.csv")
    words = searched.in_words(replace(config, retrieval=told))
    assert words == "a.csv by fused cut to 9 paragraphs"
    tool = tmp_path / "mine.py"
    tool.write_text("async def search(queries): return queries")
    first = searched.in_words(replace(config, tools=f"{tool}:search"))
    tool.write_text("async def search(queries): return list(queries)")
    second = searched.in_words(replace(config, tools=f"{tool}:search"))
    assert first.startswith(f"{tool}:search ") and first != second


CHANGES = [
    {"encoder": "transformer"},
    {"encoder_path": "intfloat/e5-base-v2"},
    {"index": "HNSW32"},
    {"index": "HNSW32", "index_parameters": "efSearch=128"},
    {"bm25_k1": 0.9},
    {"bm25_b": 0.4},
    {"fused_depth": 10},
    {"fused_constant": 1.0},
    {"max_passage_tokens": 90},
    {"max_query_tokens": 64},
    {"passage_prefix": ""},
    {"query_prefix": ""},
    {"title_weight": 0.0},
    {"text_column": "body"},
    {"store": "always"},
    {"gpus": 2},
]


def searching(**changes):
    return replace(configs.load("ci"), retrieval=RetrievalConfig(**changes))


def test_every_setting_that_changes_what_is_found_is_noted():
    found = [searched.facts(searching(**each)) for each in ({}, *CHANGES)]
    assert len({each["search_settings"] for each in found}) == 1 + len(CHANGES)
    assert found[0] == {"search_server": "", "search_settings": ""}
    assert (
        found[4]["search_settings"] == "index='HNSW32', index_parameters='efSearch=128'"
    )
    assert searched.facts(searching(gpus=4)) == found[-1]  # as exact as on two
    for name in searched.HARMLESS:
        changes = {name: "elsewhere" if name == "index_dir" else 9}
        assert searched.facts(searching(**changes)) == found[0]


def test_passages_are_told_by_what_they_hold(tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text('{"contents": "a\\nb"}\n')
    first = searched.facts(searching(passages=str(file)))
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(file.read_bytes())
    assert searched.facts(searching(passages=str(copy))) == first
    file.write_text('{"contents": "a\\nc"}\n')
    assert searched.facts(searching(passages=str(file))) != first


@pytest.mark.parametrize("name", ["url", "retrieval_url"])
def test_another_search_server_is_another_search(name):
    config = searching(bm25_b=0.4)
    at = [
        replace(config, inference=replace(config.inference, **{name: url}))
        for url in ("http://one:1/", "http://two:1")
    ]
    assert [searched.facts(each) for each in at] == [
        {"search_server": url, "search_settings": ""}  # which are the server's
        for url in ("http://one:1", "http://two:1")
    ]
