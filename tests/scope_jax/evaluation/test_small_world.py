"""Held-out tasks answered by a policy that a test scripts: every score by hand."""

import asyncio
import math
import re

import pytest

from rl.engine.sampling import seed64
from scope_jax.evaluation import before_after, small_world
from scope_jax.small_world.tasks import heldout_tasks, read_task
from scope_jax.small_world.world import generate
from tests.scope_jax.method.rewarded import call, thought
from tests.scope_jax.selfplay.scripted import ScriptedPlayers, settings

COUNT = 6
TASKS = heldout_tasks(COUNT, small_world.HELDOUT_SEED)
# Of one, two, three entities in turn: facts by hops are (3), (2, 1), (3), (3), (2, 1),
# (1, 1, 1).


class Players(ScriptedPlayers):
    """Greedily the first wanted fact; sampled all, after a search, but of one task."""

    def __init__(self):
        super().__init__(settings())
        self.seeds = {"greedy": [], "sampled": []}

    async def policy(self, request):
        text = self.renderer.decode(request.ids)
        number = next(n for n, task in enumerate(TASKS) if task.text in text)
        greedy = request.sampling.temperature == 0
        self.seeds["greedy" if greedy else "sampled"].append(request.seed64)
        facts = [fact.sentence() for fact in TASKS[number].facts]
        if greedy:
            return self.completion(thought(f"<answer>{facts[0]}</answer>"))
        if text.count("<search>q</search>") == 0:
            return self.completion(thought(call("search_r1")))
        if number == 0:
            return self.completion(thought("<answer></answer>"))
        return self.completion(thought(f"<answer>{' '.join(facts)}</answer>"))


@pytest.fixture(scope="module")
def evaluated():
    players, told = Players(), []
    work = small_world.evaluate(
        players.world, COUNT, "test", "base", lambda n, of: told.append((n, of))
    )
    metrics, records = asyncio.run(work)
    assert told == [(n, COUNT) for n in range(1, COUNT + 1)] * 2
    return players, metrics, records


def error(values):
    """Standard error of a mean, from the textbook."""
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))


def test_both_modes_have_every_number_with_its_error_and_size(evaluated):
    _, metrics, _ = evaluated
    third, all_but_one = [1 / 3] * 6, [0, 1, 1, 1, 1, 1]
    halves = [1 / 3, 1 / 2, 1 / 3, 1 / 3, 1 / 2, 1]  # of the facts of one hop
    expected = {
        "greedy": {"true_score": third, "true_score_1_hops": halves},
        "sampled": {"true_score": all_but_one, "true_score_1_hops": all_but_one},
    }
    for number in (1, 2, 3):
        at = slice(number - 1, None, 3)
        expected["greedy"][f"true_score_{number}_entities"] = third[at]
        expected["sampled"][f"true_score_{number}_entities"] = all_but_one[at]
    expected["greedy"] |= {"true_score_2_hops": [0, 0, 0], "true_score_3_hops": [0]}
    expected["sampled"] |= {"true_score_2_hops": [1, 1, 1], "true_score_3_hops": [1]}
    plain = {
        "greedy": {"searches": 0, "sentences": 1, "answered": 1},
        "sampled": {"searches": 1, "sentences": 5 * 3 / 6, "answered": 5 / 6},
    }
    wanted = {}
    for mode, scores in expected.items():
        for name, values in scores.items():
            wanted[f"eval/{mode}/{name}"] = sum(values) / len(values)
            wanted[f"eval/{mode}/{name}_n"] = len(values)
            if len(values) > 1:
                wanted[f"eval/{mode}/{name}_stderr"] = error(values)
        wanted |= {f"eval/{mode}/{name}": value for name, value in plain[mode].items()}
    assert metrics == pytest.approx(wanted)


def test_a_record_holds_both_answers(evaluated):
    _, _, records = evaluated
    assert [record["task"] for record in records] == [task.text for task in TASKS]
    assert [record["entities"] for record in records] == [1, 2, 3] * 2
    assert [record["hops"] for record in records] == [1, 2, 1, 1, 2, 3]
    first = records[0]
    assert first["wanted"] == [fact.sentence() for fact in TASKS[0].facts]
    assert (first["sampled"]["answer"], first["sampled"]["true_score"]) == ("", 0)
    assert first["greedy"]["answer"] == first["wanted"][0]
    roles = [message["role"] for message in records[1]["sampled"]["messages"]]
    assert roles == ["user", "assistant", "user", "assistant"]


def test_draws_are_a_function_of_run_policy_and_task(evaluated):
    players, _, _ = evaluated
    seed = players.config.seed
    for turn in (0, 1):
        wanted = {seed64(seed, "evaluation", "base", n, turn) for n in range(COUNT)}
        assert wanted <= set(players.seeds["sampled"])


@pytest.mark.parametrize("split", ["dev", "test"])
def test_the_parts_do_not_meet_and_more_tasks_begin_with_the_same(split):
    tasks = heldout_tasks(450, small_world.HELDOUT_SEED, split)
    assert tasks[:6] == heldout_tasks(6, small_world.HELDOUT_SEED, split)
    known = generate()
    for task in tasks:
        assert tuple(blank.fact for blank in read_task(known, task.text)) == task.facts
        names = re.findall(r"([A-Z]\w+)'s", task.text)
        assert {known.by_name[name].split for name in names} == {split}


def record(task, greedy, sampled=0.0):
    def told(score):
        said = [
            {"role": "user", "content": task},
            {"role": "assistant", "content": "a"},
        ]
        return {"true_score": score, "answer": f"{task} {score}", "messages": said}

    return {
        "task": task,
        "wanted": ["X's y is Z."],
        "greedy": told(greedy),
        "sampled": told(sampled),
    }


def test_the_shown_task_is_the_first_of_the_largest_gain():
    before = [record("a", 1.0), record("b", 0.0), record("c", 1 / 3), record("d", 0.0)]
    after = [record("a", 1.0), record("b", 2 / 3), record("c", 1.0), record("d", 1 / 3)]
    shown = before_after.compare(("base", "iter_2"), before, after)
    assert (shown.task, shown.wanted) == ("b", ("X's y is Z.",))
    assert [side.name for side in shown.sides] == ["base", "iter_2"]
    assert [side.answer for side in shown.sides] == ["b 0.0", f"b {2 / 3}"]
    assert "4 held-out tasks" in shown.rule and "first" in shown.rule


def test_nobody_gained_and_the_first_task_is_shown():
    records = [record("a", 1.0), record("b", 0.0)]
    shown = before_after.compare(("base", "iter_1"), records, records)
    assert shown.task == "a"
