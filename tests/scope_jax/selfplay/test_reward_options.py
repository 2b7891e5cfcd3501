"""Options of the rewards with a scripted judge: what is asked, what it changes."""

import asyncio
import re
import tracemalloc
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from retrieval.passages import Passage
from rl.learner.config import OverlongConfig
from scope_jax.method.judge import JudgeConfig, StageTemperatures
from scope_jax.method.rubric_weights import RubricWeights
from scope_jax.method.solver import SolverConfig, search_decay
from scope_jax.method.types import Document, Rubric, Task
from scope_jax.selfplay.checking import _distractors
from scope_jax.selfplay.judging import Judging, grade_json
from scope_jax.selfplay.rewards import reward_solver, reweighted
from tests.scope_jax.method.rewarded import SEED, call, played, thought
from tests.scope_jax.selfplay.scripted import SCORE, ScriptedPlayers, rubrics, settings
from tests.scope_jax.selfplay.task_players import (
    create,
    judge,
    outcomes,
    small,
    task_of,
)

PRIORITIES = ("critical", "important", "bonus")
TASK = Task(
    uid="t",
    type="writing",
    text="T",
    document=Document(id="1", title="Bern", text="Bern"),
    searches=1,
    rubrics=tuple(
        Rubric(f"Names fact {i}.", priority) for i, priority in enumerate(PRIORITIES, 1)
    ),
    gate_scores={},
    difficulty=0.5,
)


def meets(stem, text, retry):
    """Grades an answer by the digits in it: 1 for each rubric that it names."""
    number = text.split("Names fact ")[1][0]
    met = re.findall(r"met=(\d*)", text)[-1]
    return SCORE[int(number in met)]


def group_of(*answers, **changes):
    """Rewarded rollouts of ``TASK`` that search once and answer."""
    players = ScriptedPlayers(settings(**changes), judge=meets)
    opening = players.prompts.solver("T", 4)
    found = []
    for answer in answers:
        texts = [thought(call("search_r1")), thought(f"<answer>met={answer}</answer>")]
        rollout = played(players, "solver", opening, texts)
        # As in training: run, iteration, role, step, group, sample.
        rollout = replace(rollout, seed=(7, 1, "solver", 4, 0, len(found)))
        found.append(asyncio.run(reward_solver(players.world, rollout, TASK)))
    return found, players.world


def test_pow3r_weighs_what_separates_the_group():
    """Verdicts 1 0 1, 1 1 0, 1 0 0: weights 3/2, 3, 3/2 (``test_rubric_weights``)."""
    weights = RubricWeights(kind="pow3r_instant", floor=1e-12)
    group, world = group_of(
        "13", "12", "1", judge=JudgeConfig(weights=weights), solver=SolverConfig()
    )
    plain = [one.reward for one in group]
    found = reweighted(world, group, TASK)
    scores = [one.metrics["reward/weighted_score"] for one in found]
    assert scores == pytest.approx([3 / 6, 4.5 / 6, 1.5 / 6])
    # The plain score, which alarm and difficulty read, is as it was.
    kept = [one.metrics["reward/rubric_score"] for one in found]
    assert kept == pytest.approx([2 / 3, 2 / 3, 1 / 3])
    gained = [now.reward - before for now, before in zip(found, plain, strict=True)]
    assert gained == pytest.approx([3 / 6 - 2 / 3, 4.5 / 6 - 2 / 3, 1.5 / 6 - 1 / 3])
    assert "rubrics weighted 1.5, 3, 1.5: 0.75" in found[1].trace["why"]
    assert [one.grades for one in found] == [one.grades for one in group]


def test_equal_verdicts_are_worth_the_same_under_the_weights_of_one_group():
    weights = RubricWeights(kind="pow3r_instant", floor=1e-12)
    group, world = group_of(
        "13", "12", "1", judge=JudgeConfig(weights=weights), solver=SolverConfig()
    )
    [_, _, source] = reweighted(world, group, TASK)
    again = [group[2], group[0]]
    assert reweighted(world, again, TASK, by=group)[0] == source
    assert reweighted(world, again, TASK)[0].reward != source.reward


def test_the_overlong_term_is_in_every_reward_once():
    """Also where a group's rewards are made again."""
    weights = JudgeConfig(weights=RubricWeights(kind="pow3r_instant"))
    plain, before = group_of("13", "12", judge=weights)
    tokens = plain[0].sampled_tokens
    stage = replace(
        before.config.solver_train,
        overlong=OverlongConfig(limit=tokens + 3, buffer=4),
    )
    group, world = group_of("13", "12", judge=weights, solver_train=stage)
    both = zip(
        [*group, *reweighted(world, group, TASK)],
        [*plain, *reweighted(before, plain, TASK)],
        strict=True,
    )
    for one, other in both:
        assert one.sampled_tokens == tokens
        assert one.reward == pytest.approx(other.reward - 0.25)
        assert one.trace["reward"] == one.reward
        assert one.metrics["reward/overlong"] == -0.25


def test_equal_weights_and_short_questions_are_left_alone():
    group, world = group_of("13", "12")
    assert reweighted(world, group, TASK) == group
    weights = RubricWeights(kind="pow3r_instant")
    group, world = group_of("13", "12", judge=JudgeConfig(weights=weights))
    known = replace(TASK, target="met=12")
    assert reweighted(world, group, known) == group
    assert reweighted(world, group, TASK) != group


def test_the_search_reward_falls_along_half_a_cosine():
    """Step 4 of T = 6: half of it is left; from step 7 on nothing."""
    config = SolverConfig(search_decay="cosine", search_decay_steps=6)
    left = [search_decay(config, step) for step in (1, 3, 4, 5, 7, 99)]
    assert left == pytest.approx([1, 0.75, 0.5, 0.25, 0, 0])
    (plain,), _ = group_of("123")
    (decayed,), _ = group_of("123", solver=config)
    assert plain.metrics["reward/search"] == pytest.approx(1 / 3)
    assert decayed.metrics["reward/search"] == pytest.approx(1 / 6)
    assert decayed.reward == pytest.approx(plain.reward - 0.1 / 6)
    line = next(why for why in decayed.trace["why"] if "search call," in why)
    assert line == "1 search call, 3 wanted: search 0.1667 (0.5 of it is left)"


def voters(config, says):
    """A judge that answers by the seed it is asked with, and what it was asked."""
    asked = []
    players = ScriptedPlayers(settings(judge=config))

    async def ask(messages, *, temperature, max_tokens, seed64):
        asked.append((seed64, len(messages)))
        return says(len(asked))

    return replace(players.world, judge=ask), asked


def test_k_verdicts_are_averaged_and_each_has_a_seed_of_its_own():
    config = JudgeConfig(votes=3)
    world, asked = voters(config, lambda n: SCORE[{1: 1, 2: 0}.get(n)])
    [grade] = asyncio.run(
        Judging(world, "solver").grade("T", "a", TASK.rubrics[:1], SEED)
    )
    # The third cannot be read, is asked again, and cannot be read again.
    assert grade.score == 0.5
    assert grade_json(grade)["votes"] == [1, 0, None]
    assert len({seed for seed, _ in asked}) == len(asked) == 4
    once, first = voters(JudgeConfig(), lambda n: SCORE[1])
    [plain] = asyncio.run(
        Judging(once, "solver").grade("T", "a", TASK.rubrics[:1], SEED)
    )
    assert first == asked[:1]
    assert "votes" not in grade_json(plain)


def test_a_judge_without_temperature_votes_once():
    cold = JudgeConfig(votes=5, grade_temperature=StageTemperatures(solver=0.0))
    world, asked = voters(cold, lambda n: SCORE[1])
    asyncio.run(Judging(world, "solver").grade("T", "a", TASK.rubrics, SEED))
    assert len(asked) == len(TASK.rubrics)


def quoting(stem, text, retry):
    """Writes evidence that is in the document for two rubrics of four, or for all."""
    if stem != "rubric":
        return judge(stem, text, retry)
    town = re.search(r"Write about Town(\d+)", text)[1]
    true = 4 if int(town) % 2 else 2
    quotes = [f"it lies BY  {town}."] * true + ["it does not say this"] * (4 - true)
    lines = (
        f'<rubric priority="bonus" evidence="{quote}">Names fact {i}.</rubric>'
        for i, quote in enumerate(quotes, 1)
    )
    return f"<rubrics>{''.join(lines)}</rubrics>"


def with_judge(**changes):
    config = small(max_batches=2)
    return replace(config, judge=replace(config.judge, **changes))


def test_tasks_without_enough_evidence_are_dropped(tmp_path):
    (kept, records, metrics), players = create(
        tmp_path, with_judge(evidence=0.75), judge=quoting
    )
    assert kept and all(int(task.document.title[4:]) % 2 for task in kept)
    assert outcomes(players)["checks_failed"] > 0
    assert any('"checks": {"evidence": 0.5}' in text for text in records)
    assert sum(record.get("tasks/checks_failed", 0) for record in metrics) > 0
    asked = [text for stem, text, _ in players.asked if stem == "rubric"]
    assert all("the evidence for it" in text for text in asked)
    # What was tried against a Solver had passed.
    tried = {task_of(text) for stem, text, _ in players.asked if stem == "grader"}
    assert {int(re.search(r"Town(\d+)", text)[1]) % 2 for text in tried} == {1}


def test_half_of_the_evidence_is_enough_where_half_is_asked(tmp_path):
    (kept, *_), _ = create(tmp_path, with_judge(evidence=0.5), judge=quoting)
    assert {int(task.document.title[4:]) % 2 for task in kept} == {0, 1}


def test_no_evidence_is_asked_for_by_default(tmp_path):
    (_, _, metrics), players = create(tmp_path, small(max_batches=1))
    asked = [text for stem, text, _ in players.asked if stem == "rubric"]
    assert asked and not any("evidence" in text for text in asked)
    assert not any("tasks/checks_failed" in record for record in metrics)
    assert players.count("judge_answer") == 0


def answering(stem, text, retry):
    """Answers from its document if that is among those shown, else not at all."""
    town = re.findall(r"Write about Town(\d+)", text)[-1]
    if stem == "judge_answer":
        shown = text.split("<documents>")[1].split("</documents>")[0]
        assert shown.count("\n---\n") >= 5  # document, results, 4 of other towns
        own = f"It lies by {town}." in shown
        return f"<answer>{'right' if own and int(town) % 3 else 'wrong'}</answer>"
    if stem == "rubric":
        return rubrics(4)
    if stem.startswith("gate"):
        return SCORE[1]
    if "right" in text or "wrong" in text:
        return SCORE[int("right" in text and "Names fact 4" not in text)]
    return judge(stem, text, retry)


def test_a_task_that_the_judge_cannot_answer_from_its_documents_is_dropped(tmp_path):
    (kept, records, _), players = create(
        tmp_path, with_judge(answerable=0.75), judge=answering
    )
    assert kept and all(int(task.document.title[4:]) % 3 for task in kept)
    assert players.count("judge_answer") > len(kept)
    assert any('"checks": {"answerable": 0.75}' in text for text in records)
    strict, _ = create(tmp_path / "2", with_judge(answerable=0.76), judge=answering)
    assert strict[0] == []


def test_what_the_judge_is_shown_does_not_depend_on_who_answers_first(tmp_path):
    found = [
        create(tmp_path / str(n), with_judge(answerable=0.5), judge=answering, jitter=n)
        for n in range(2)
    ]
    assert found[0][0] == found[1][0]


class Corpus:
    """Passages that are made when they are read."""

    def __init__(self, count):
        self.count, self.read = count, []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.read.append(index)
        return Passage(str(index), f"Town{index}", "A town.")


@pytest.mark.parametrize("count", [1, 3, 5, 3_000_000])
def test_distractors_are_drawn_without_a_permutation_of_the_corpus(count):
    corpus = Corpus(count)
    world = SimpleNamespace(
        config=with_judge(distractors=4),
        passages=corpus,
        renderer=SimpleNamespace(cut_text=lambda text, limit: text),
    )
    assert world.config.documents.heldout == 0
    source = "(Title: Town0)\nA town.\n"
    tracemalloc.start()
    try:
        found = _distractors(world, source, np.random.default_rng(7))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(set(found)) == len(found) == min(4, count - 1) and source not in found
    assert len(set(corpus.read)) == len(corpus.read) == min(5, count)
    assert peak < 1_000_000  # bytes; a permutation of three million has 24 million
