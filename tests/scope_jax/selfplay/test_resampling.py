"""AXPO played: a group in which all searches failed, its source and continuations."""

import asyncio
import math
from dataclasses import replace

import pytest

from rl.records import Completion
from scope_jax.method.axpo import ResamplingConfig
from scope_jax.method.solver import SolverConfig
from scope_jax.selfplay.resampling import with_resamples
from scope_jax.selfplay.rewards import reward_solver
from scope_jax.selfplay.rollouts import Limits, converse
from scope_jax.selfplay.training import advantages, with_advantages
from tests.scope_jax.method.rewarded import call, thought
from tests.scope_jax.selfplay.scripted import ScriptedPlayers, settings
from tests.scope_jax.selfplay.test_reward_options import TASK, meets

FORMATS = ("search_r1", "tool_call", "function_calls_xml")


class Group:
    """A prompt whose rollouts say what a script says, and are rewarded."""

    def __init__(self, tool_format="search_r1", **changes):
        resampling = ResamplingConfig(**{"count": 2} | changes)
        config = settings(tool_format, solver=SolverConfig(resampling=resampling))
        self.players = ScriptedPlayers(config, judge=meets)
        self.opening = self.players.prompts.solver("T", 4)
        self.asked = []

    def play(self, seed, texts, *, begun=None, logprobs=()):
        """One rewarded rollout; ``logprobs`` of its turns' tokens, in place of -1."""
        players, script, values = self.players, list(texts), list(logprobs)

        async def policy(request):
            self.asked.append(request)
            if isinstance(script[0], Completion):
                return script.pop(0)
            said = players.completion(script.pop(0))
            value = values.pop(0) if values else -1.0
            return replace(said, logprobs=(value,) * len(said.ids))

        async def whole():
            rollout = await converse(
                players.world,
                players.world.solver_spec("solver"),
                self.opening,
                complete=policy,
                sampling=players.config.solver_train.sampling,
                limits=Limits(context=16384, response=8192),
                seed=seed,
                **({"begun": begun} if begun else {}),
            )
            rollout = replace(rollout, group=3, role="solver")
            return await reward_solver(players.world, rollout, TASK)

        return whole()

    def answering(self, number, met, query="q", **options):
        """Searches, then an answer that meets the rubrics ``met``."""
        tool_format = self.players.config.tool_format
        # As Qwen3's template writes it, or it would be trained on in other tokens.
        think = thought("").replace(">t<", ">\nt\n<") + "\n"
        texts = [
            think + call(tool_format, query),
            thought(f"<answer>met={met}</answer>"),
        ]
        seed = (7, 1, "solver", 4, 3, number)
        return asyncio.run(self.play(seed, texts, **options))

    def resampled(self, group, *endings):
        """The group after AXPO; each ending is a continuation's texts."""
        script = dict(enumerate(endings, start=len(group)))

        async def play(seed, begun):
            return await self.play(seed, script[seed[5]], begun=begun)

        work = with_resamples(self.players.world, group, play, lambda more: more)
        return asyncio.run(work)


def rest_of(tool_format, query):
    """A call without its opening tag: what is sampled behind a beginning."""
    whole = call(tool_format, query)
    return whole[whole.index(">") + 1 :]


@pytest.mark.parametrize("tool_format", FORMATS)
def test_the_least_sure_call_is_made_again_behind_its_opening_tag(tool_format):
    group = Group(tool_format)
    answer = thought("<answer>met=123</answer>")
    failed = [
        group.answering(0, "", "a"),
        group.answering(1, "", "b", logprobs=[-2.0]),  # the less sure
    ]
    asked = len(group.asked)
    found = group.resampled(
        failed,
        [rest_of(tool_format, "new"), answer],
        [rest_of(tool_format, "old"), thought("<answer>met=</answer>")],
    )
    first, source, *more = found
    assert first == failed[0] and len(more) == 2
    # Token in, token out: the request is the prompt and the source's own first tokens.
    begun = source.trace["axpo"]["begun_tokens"]
    whole = failed[1].datums[0]
    start = whole.loss_mask.index(1)
    tag = "<tool_call>" if tool_format == "tool_call" else "<search>"
    tag = "<function_calls>" if tool_format == "function_calls_xml" else tag
    decode = group.players.renderer.decode
    assert decode(whole.ids[start : start + begun]).endswith(f"\n{tag}")
    again = group.asked[asked]
    assert again.ids == whole.ids[: start + begun]
    assert source.trace["axpo"]["sureness"] == pytest.approx(math.exp(-2))
    # The continuation is one conversation: it was read as a search and answered.
    assert more[0].searches == 1 and "passage about new" in str(more[0].messages)
    assert [one.metrics["reward/rubric_score"] for one in more] == [1, 0]
    assert {one.posed for one in more} == {"resampled"}
    assert {one.group for one in more} == {-4}
    assert [one.uid for one in more] == ["1/solver/4/3/2", "1/solver/4/3/3"]
    # Masks: of the source its beginning, of the others all else.
    [kept] = source.datums
    assert sum(kept.loss_mask) == begun == sum(kept.sampled_mask)
    assert kept.loss_mask.index(1) == start
    turn = more[0].datums[0]
    assert sum(turn.loss_mask[: start + begun]) == 0 and turn.loss_mask[start + begun]
    assert turn.ids[: start + begun] == again.ids
    for datum in (kept, turn):
        known = [not math.isnan(value) for value in datum.logprobs]
        assert known == [bool(sampled) for sampled in datum.sampled_mask]


@pytest.mark.parametrize("tool_format", FORMATS)
def test_a_continuation_that_failed_at_once_is_data(tool_format):
    group = Group(tool_format)
    failed = [group.answering(0, "", "a"), group.answering(1, "", "b")]
    error = Completion(ids=(), logprobs=(), text="", finish_reason="error")
    answer = thought("<answer>met=1</answer>")
    *_, lost, good = group.resampled(
        failed, [error], [rest_of(tool_format, "q"), answer]
    )
    assert lost.finish_reason == "error" and lost.posed == good.posed == "resampled"
    assert not any(any(datum.loss_mask) for datum in lost.datums)
    assert any(any(datum.loss_mask) for datum in good.datums)
    found = [lost, good]
    changed = group.players.config.solver_train
    assert with_advantages(found, advantages(found, changed, {}), changed)


def test_advantages_are_those_of_two_groups():
    group = Group()
    failed = [group.answering(number, "") for number in range(3)]
    failed[2] = replace(failed[2], reward=failed[2].reward + 0.2)  # a better format
    search, low = rest_of("search_r1", "x"), failed[0].reward
    answers = (thought(f"<answer>met={met}</answer>") for met in ("12", ""))
    found = group.resampled(failed, *([search, answer] for answer in answers))
    best = found[3].reward
    assert found[0].credit == best == pytest.approx(low + 2 / 3)
    assert found[0].reward == low  # what it earned itself is what is reported
    values = advantages(found)
    own = [best, low, low + 0.2]
    mean = sum(own) / 3
    std = math.sqrt(sum((r - mean) ** 2 for r in own) / 2)
    assert values[:3] == pytest.approx([(r - mean) / std for r in own], rel=1e-5)
    half = math.sqrt(0.5)
    assert values[3:] == pytest.approx([half, -half], rel=1e-5)
    datums = with_advantages(found)
    assert [datum.advantage for datum in datums] == values


@pytest.mark.parametrize("met", ["1", "12"])
def test_nothing_is_sampled_where_a_search_has_helped(met):
    group = Group()
    played = [group.answering(0, ""), group.answering(1, met)]
    assert group.resampled(played) is played
    # 1/3 is a failure where one half is asked for.
    strict = Group(fail=0.5)
    played = [strict.answering(0, ""), strict.answering(1, "1")]
    ending = [rest_of("search_r1", "x"), thought("<answer>met=</answer>")]
    assert len(strict.resampled(played, ending, ending)) == 4


def test_off_and_where_nobody_searched_and_in_re_posed_groups_nothing_happens():
    for group in (Group(count=0), Group()):
        played = [group.answering(0, "")]
        if group.players.config.solver.resampling.count:
            played = [replace(played[0], posed="ncq")]
        assert group.resampled(played) is played
    group = Group()
    seed = (7, 1, "solver", 4, 3, 0)
    silent = asyncio.run(group.play(seed, [thought("<answer>met=</answer>")]))
    assert group.resampled([silent]) == [silent]


def test_a_best_that_is_no_better_leaves_the_source_its_own_reward():
    group = Group()
    failed = [group.answering(number, "") for number in range(2)]
    ending = [rest_of("search_r1", "x"), thought("<answer>met=</answer>")]
    source, *_ = group.resampled(failed, ending, ending)
    assert source.credit == source.reward
    assert source.trained[0][1].trained == source.trace["axpo"]["begun_tokens"]
    assert [turn.trained for _, turn in source.trained[1:]] == [0]
