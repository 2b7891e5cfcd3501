"""Who answers in evaluations."""

import contextlib
from dataclasses import replace
from types import SimpleNamespace

import pytest

import configs
from scope_jax.evaluation import players


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
    assert players._search(config) == "demo"  # as in answers of older versions
    told = replace(config.retrieval, ranking="fused", cut_tokens=9, passages="a.csv")
    searched = players._search(replace(config, retrieval=told))
    assert searched == "a.csv by fused cut to 9 paragraphs"
    tool = tmp_path / "mine.py"
    tool.write_text("async def search(queries): return queries")
    first = players._search(replace(config, tools=f"{tool}:search"))
    tool.write_text("async def search(queries): return list(queries)")
    second = players._search(replace(config, tools=f"{tool}:search"))
    assert first.startswith(f"{tool}:search ") and first != second
