"""Evaluation while a run goes on: after steps and iterations, and at its end.

It plays held-out tasks with the engines that the run has, and changes nothing of it:
every conversation has a seed of its own.
"""

from typing import Any

from models.errors import UserError
from scope_jax.evaluation import small_world
from scope_jax.evaluation.checkpoints import (
    Found,
    kind_of,
    score_each,
    score_small_world,
    show_small_world,
    solvers_of,
)
from scope_jax.selfplay.parts import Parts
from scope_jax.selfplay.pipeline import EVALUATION, Evaluations
from scope_jax.system.files import read_json, read_json_lines


def after_step(parts: Parts, step: int) -> dict[str, float]:
    """Metrics ``eval/..`` of the policy that the engine plays."""
    wanted = parts.world.config.evaluation

    def scored() -> dict[str, float]:
        work = small_world.evaluate(
            parts.world, wanted.count, wanted.split, f"step_{step}", lambda *_: None
        )
        return parts.serving.run(work)[0]

    return parts.hosts.from_leader(scored)


def after_iteration(parts: Parts, iteration: int) -> None:
    """Scores the Solvers that there are, without those that were scored before."""
    wanted, name = parts.world.config.evaluation, f"iter_{iteration}/{EVALUATION}"
    parts.folder.record(name, status="running")
    parts.tracker.rewind(iteration, EVALUATION, 0)
    # Not the later ones, where this is done again.
    solvers = parts.hosts.from_leader(lambda: solvers_of(parts, iteration))
    kept = parts.hosts.from_leader(lambda: _kept(parts))
    new = score_each(
        parts,
        lambda *each: small_world.evaluate(
            parts.world, wanted.count, wanted.split, *each
        ),
        [one for one in solvers if one[0] not in kept],
    )
    _log(parts, iteration, new)
    found = {one: (new | kept)[one] for one, _ in solvers}
    show_small_world(parts, wanted.count, wanted.split, found)
    parts.folder.record(
        name, status="done", solvers=list(new), **_asked(parts.world.config.evaluation)
    )


def at_the_end(parts: Parts) -> None:
    """Scores each Solver of a finished run, as the run's own last stage.

    A run that was killed here starts it again; nothing else depends on it.
    """
    config = parts.world.config
    wanted = config.evaluation
    parts.folder.record(EVALUATION, status="running")
    kept = parts.hosts.from_leader(lambda: _kept(parts))
    solvers = parts.hosts.from_leader(lambda: solvers_of(parts))
    if any(name not in kept for name, _ in solvers):
        parts.tracker.rewind(config.iterations, EVALUATION, 0)
        found, _ = score_small_world(parts, wanted.count, wanted.split)
        _log(parts, config.iterations, found)
    asked = _asked(wanted) | {"iterations": config.iterations}
    parts.folder.record(EVALUATION, status="done", **asked)


EVALUATIONS = Evaluations(after_step, after_iteration, at_the_end)


def _asked(wanted: Any) -> dict[str, Any]:
    return {"count": wanted.count, "split": wanted.split}


def _log(parts: Parts, iteration: int, found: Found) -> None:
    for step, (metrics, _) in enumerate(found.values(), 1):
        parts.tracker.log(metrics, iteration=iteration, stage=EVALUATION, step=step)


def _kept(parts: Parts) -> Found:
    """What was scored after earlier iterations, on the same tasks, and is whole."""
    asked = _asked(parts.world.config.evaluation)
    names = []
    for iteration in range(1, parts.world.config.iterations + 1):
        name = f"iter_{iteration}/{EVALUATION}"
        stage = parts.folder.stage(name)
        if parts.folder.done(name) and asked.items() <= stage.items():
            names += stage["solvers"]
    folder = parts.folder.path / "eval" / kind_of(asked["split"])
    found: Found = {}
    for name in names:
        try:
            scores = read_json(folder / "scores.json")
            records = read_json_lines(folder / f"{name}.jsonl")
            if len(records) == asked["count"]:  # else eval.py has scored it since
                found[name] = (scores[name], records)
        except (UserError, KeyError):
            continue  # it is scored again
    return found
