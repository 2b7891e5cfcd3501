"""Where the truth is known: metrics of it, and a note in every trace.

It is computed from rollouts that are finished and rewarded, and it goes to metrics and
to people only: what an update trains on is never made from what is returned here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from scope_jax.selfplay.rollouts import Rollout
from scope_jax.small_world.truth import (
    AnswerTruth,
    TaskTruth,
    answer_metrics,
    answer_truth,
    task_metrics,
    task_truth,
)
from scope_jax.small_world.world import World as Encyclopedia


def with_truth(
    known: Encyclopedia | None, rollouts: Sequence[Rollout]
) -> tuple[list[Rollout], dict[str, float]]:
    """A step's rollouts, ``truth`` in their traces, and metrics.

    Args:
      known: the facts; None, where they are not known, changes and measures nothing.
      rollouts: rewarded, of one role; the metrics are of those that were posed plainly.
    """
    if known is None or not rollouts:
        return list(rollouts), {}
    truths: list[AnswerTruth | TaskTruth | None]
    if rollouts[0].role == "solver":
        answers = [_answer(known, rollout.trace) for rollout in rollouts]
        asked = [(a, r) for a, r in zip(answers, rollouts, strict=True) if not r.posed]
        metrics = answer_metrics(
            [answer for answer, _ in asked],
            rewards=[rollout.reward for _, rollout in asked],
            groups=[rollout.group for _, rollout in asked],
        )
        truths = [*answers]
    else:
        truths = [_task(known, rollout.trace) for rollout in rollouts]
        metrics = task_metrics([t for t in truths if isinstance(t, TaskTruth)])
    shown = [
        replace(r, trace=r.trace | {"truth": truth.json()}) if truth else r
        for r, truth in zip(rollouts, truths, strict=True)
    ]
    return shown, metrics


def with_task_truth(
    known: Encyclopedia | None,
    written: Mapping[str, tuple[str, str]],
    records: Sequence[Mapping[str, Any]],
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """A batch's records of task creation with ``truth`` in them, and metrics.

    Args:
      known: the facts; None, where they are not known, changes and measures nothing.
      written: by uid: text of every task, those too that were never sifted, and title
        of its document.
      records: of the sifted ones, and of conversations without a task.
    """
    if known is None:
        return [dict(record) for record in records], {}
    told = {record["uid"]: record for record in records}
    truths = {
        uid: _task(known, {"task": task, "document": title} | told.get(uid, {}))
        for uid, (task, title) in written.items()
    }
    kept = [uid for uid in truths if told.get(uid, {}).get("outcome") == "kept"]
    metrics = task_metrics([t for t in truths.values() if t], "truth/written")
    metrics |= task_metrics([t for uid in kept if (t := truths[uid])], "truth/kept")
    shown = [
        {**record, "truth": truth.json()}
        if (truth := truths.get(record["uid"]))
        else {**record}
        for record in records
    ]
    return shown, metrics


def _answer(known: Encyclopedia, trace: Mapping[str, Any]) -> AnswerTruth:
    """The truth about a Solver's rollout."""
    return answer_truth(
        known,
        trace["task"],
        trace["answer"],
        trace["rubrics"],
        [grade["score"] for grade in trace["judge"]],
        graded=trace.get("graded"),
    )


def _task(known: Encyclopedia, trace: Mapping[str, Any]) -> TaskTruth | None:
    """The truth about a Challenger's rollout or a candidate; None without a task."""
    if not trace.get("task"):
        return None
    return task_truth(
        known,
        trace["task"],
        trace["document"],
        trace.get("rubrics", ()),
        [attempt["answer"] for attempt in trace.get("attempts", ())],
    )
