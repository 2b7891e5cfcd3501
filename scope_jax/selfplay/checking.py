"""Checks of a task beside the gates, as far as they are on (``method.task_checks``)."""

from collections.abc import Sequence

import numpy as np

from rl.engine.sampling import seed64
from scope_jax.method import judge, solver
from scope_jax.method.judge import RubricsParse
from scope_jax.method.task_checks import Check, among, evidence_share
from scope_jax.selfplay.documents import source_document
from scope_jax.selfplay.judging import Judging
from scope_jax.selfplay.rollouts import Seed
from scope_jax.selfplay.world import World


async def check_task(
    world: World,
    judging: Judging,
    task: str,
    parse: RubricsParse,
    documents: Sequence[str],
    seed: Seed,
    *,
    target: str | None = None,
) -> list[Check]:
    """What a task with valid rubrics is worth by the checks, up to one that fails.

    Args:
      documents: its source document, then what its searches brought.
      seed: of the task.
      target: the known answer of a short question.
    """
    config = world.config.judge
    checks: list[Check] = []
    if config.evidence:
        source, *passages = documents
        text = judge.documents_text(source, passages)
        share = evidence_share(parse.evidence, text)
        checks.append(Check("evidence", share, config.evidence))
    if config.answerable and all(check.passed for check in checks):
        score = await _own_score(world, judging, task, parse, documents, seed, target)
        checks.append(Check("answerable", score, config.answerable))
    return checks


async def _own_score(
    world: World,
    judging: Judging,
    task: str,
    parse: RubricsParse,
    documents: Sequence[str],
    seed: Seed,
    target: str | None,
) -> float:
    """What the judge's own answer from the documents is worth, among distractors."""
    draw = np.random.default_rng(seed64(*seed, "distractors"))
    text = among(documents, _distractors(world, documents[0], draw), draw)
    answer, _ = await judging.answer(task, text, seed)
    if not answer:
        return 0.0
    if target is not None:
        return float(solver.exact_match(answer, [target]))
    grades = await judging.grade(task, answer, parse.rubrics, (*seed, "own answer"))
    count = len(parse.rubrics)
    scores = [grade.score for grade in grades]
    return (judge.rubric_score(scores, count, world.config.judge) or 0.0) / count


def _distractors(world: World, source: str, draw: np.random.Generator) -> list[str]:
    """Other documents of the corpus, cut like the one that a task is from."""
    config, passages = world.config, world.passages
    if passages is None:
        return []
    count = len(passages) - config.documents.heldout
    drawn = min(count, config.judge.distractors + 1)
    found: list[str] = []
    # Not by a permutation: of 21 million passages it takes seconds.
    for place in draw.choice(count, drawn, replace=False):
        cut = source_document(passages[int(place)], world.renderer, config)
        found += [] if cut == source else [cut]
    return found[: config.judge.distractors]
