"""Difficulty rollouts: how long they may get (spec 3.8)."""

import asyncio
from dataclasses import replace

import pytest

from scope_jax.method.challenger import ChallengerConfig
from scope_jax.method.types import Rubric
from scope_jax.selfplay.attempts import context_tokens, play_attempts
from scope_jax.selfplay.judging import Judging
from tests.scope_jax.method.rewarded import call
from tests.scope_jax.selfplay.scripted import ScriptedPlayers, settings


@pytest.mark.parametrize(("model", "limit"), [(65_536, 32_768), (2_048, 2_048)])
def test_the_context_is_the_setting_or_the_model_s_own(model, limit):
    assert context_tokens(ChallengerConfig(), model) == limit


def test_a_rollout_ends_where_its_context_is_full_and_not_where_the_engine_is():
    """A byte a token; each search adds about a hundred of them."""
    config = settings()
    for context, turns in ((32_768, 10), (2_600, None)):
        challenger = replace(config.challenger, rollout_context_tokens=context)
        players = ScriptedPlayers(
            replace(config, challenger=challenger),
            solver=lambda seed: f"<think>{'a' * 150}</think>{call('search_r1')}",
        )
        judging = Judging(players.world, "challenger")
        work = play_attempts(players.world, judging, "T", [Rubric("r")], 1, ("s",))
        [attempt] = asyncio.run(work)
        longest = max(
            len(r.ids) + r.sampling.max_new_tokens for r in players.solver_requests
        )
        assert longest <= context
        if turns is None:
            assert attempt.finish == "length"
        else:
            assert (attempt.finish, attempt.turns) == ("turns", turns)
