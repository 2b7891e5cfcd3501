"""Who answers in evaluations."""

import contextlib
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
