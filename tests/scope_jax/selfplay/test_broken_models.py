"""A model of broken weights stops the run; single failures don't."""

import asyncio
from concurrent.futures import Future
from dataclasses import replace

import pytest

import configs
from models.errors import UserError
from rl.records import Completion, Request
from scope_jax.selfplay.policy_engine import PolicyEngine
from scope_jax.selfplay.serving import Serving
from scope_jax.system.hosts import Hosts

BAD = Completion(ids=(), logprobs=(), text="", finish_reason="error")
GOOD = Completion(ids=(1,), logprobs=(-1.0,), text="a", finish_reason="stop")
LATE = Completion(ids=(), logprobs=(), text="", finish_reason="cancelled")


class Renderer:
    stop_ids = ()

    def prompt_ids(self, messages):
        return [1]

    def opening_of(self, prompt):
        return ""


@pytest.fixture(params=["judge", "solver", "policy"])
def say(request, tmp_path):
    """Lets a run get given completions of one of its models, one after the other."""
    left = []

    class Client:
        async def complete(self, model, asked):
            return left.pop(0)

    class Thread:
        def complete(self, asked):
            future = Future()
            future.set_result(left.pop(0))
            return future

    serving = Serving(configs.load("tiny"), tmp_path, Renderer(), Hosts(0, 1))
    serving._client = Client()
    policy = PolicyEngine.__new__(PolicyEngine)
    policy._thread, policy._guards, policy._policy = Thread(), {}, 0

    async def one():
        if request.param == "judge":
            return await serving.judge([], temperature=0.0, max_tokens=4, seed64=0)
        ask = serving.solver if request.param == "solver" else policy.complete
        return await ask(Request(ids=(1,)))

    def all_of(completions):
        left[:] = completions
        for _ in completions:
            asyncio.run(one())

    all_of.name = request.param
    return all_of


def test_ten_errors_in_a_row_stop_the_run_and_name_the_model(say):
    with pytest.raises(
        UserError, match=f"{say.name}: 10 completions in a row .* logit"
    ):
        say([GOOD, *[BAD] * 10])


def test_errors_between_answers_are_data(say):
    say([*[BAD] * 9, GOOD, *[BAD] * 5, LATE, *[BAD] * 4, GOOD])


MALFORMED = replace(BAD, problem="9 stop ids: above engine.max_stop_ids=8: raise it")


def test_malformed_requests_are_not_blamed_on_the_weights(say):
    say([*[BAD] * 9, *[MALFORMED] * 9, GOOD])
    with pytest.raises(
        UserError, match=f"{say.name}: 10 requests in a row .*max_stop_ids=8"
    ) as caught:
        say([MALFORMED] * 10)
    assert "weights" not in str(caught.value)


def test_malformed_requests_between_broken_ones_say_nothing_about_the_weights(say):
    with pytest.raises(UserError, match=r"10 completions in a row .* logits"):
        say([*[BAD] * 5, *[MALFORMED] * 3, *[BAD] * 5])
