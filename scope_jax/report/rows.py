"""One line per rollout: what lists, filters and histograms need of it.

A row is a list of values, in the order of `FIELDS`: it is written thousands of times.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from scope_jax.report.plain import is_number, short

FIELDS = (
    *("uid", "iteration", "stage", "step", "group", "sample", "reward", "advantage"),
    *("judge", "truth", "gap", "outcome", "errors", "searches", "tokens", "type"),
    *("task", "source", "flaws"),
)
"""What a row holds.

iteration, stage, step, group, sample: where it was played; in an evaluation ``step`` is
0, ``group`` the task and ``sample`` how it was answered. reward: what GRPO saw, of a
task in creation the Solver's mean score, in an evaluation the true score. judge: mean
score by the judge; truth: the true score; gap: how far the two differ, and where no
truth is known how far the judge's scores of several attempts do. outcome: how it ended.
source: of a Solver's rollout, the uid of the task in its creation. flaws: what the
small world knows against the task, its rubrics or their grades.
"""

TASK_CHARACTERS = 200
"""Characters of a task that lists show."""


def row(
    record: Mapping[str, Any], iteration: int, stage: str, step: int
) -> list[Any] | None:
    """The row of a stored rollout, or of a record of task creation; None: it is none.

    Args:
      iteration, stage, step: of the file that holds it.
    """
    uid, trace = record.get("uid"), record.get("trace", record)
    if not isinstance(uid, str) or not isinstance(trace, dict):
        return None
    *_, group, sample = ["0", "0", *uid.split("/")]
    judge, truth = _judged(trace), _true(trace)
    ended = trace.get("branch") or record.get("finish_reason")
    parts = _mapping(trace.get("parts"))
    metrics = _mapping(record.get("metrics"))
    return [
        uid,
        iteration,
        stage,
        step,
        _whole(group),
        _whole(sample),
        short(record.get("reward", record.get("difficulty"))),
        short(record.get("advantage")),
        short(judge),
        short(truth),
        short(_gap(trace, judge, truth)),
        str(record.get("outcome") or ended or ""),
        [str(error) for error in _list(trace.get("errors"))],
        short(metrics.get("rollout/ran_searches", parts.get("searches"))),
        short(record.get("tokens")),
        str(trace.get("task_type") or trace.get("type") or ""),
        str(trace.get("task") or "")[:TASK_CHARACTERS],
        str(trace.get("task_uid") or ""),
        [str(flaw) for flaw in _list(_mapping(trace.get("truth")).get("flaws"))],
    ]


def scored(
    record: Mapping[str, Any], kind: str, name: str, number: int
) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    """(row, record as the page shows it) of each answer in a record of an evaluation.

    Args:
      record: of one task: several answers whose truth is known, each under how it was
        sampled, or one that the judge has graded.
      kind: of the evaluation, its folder's name.
      name: of the Solver, ``base`` or ``iter_N``.
      number: of the task.
    """
    uid, place = f"eval/{kind}/{name}/{number}", (kind, name, number)
    if "messages" in record:
        score, grades = record.get("score"), _list(record.get("grades"))
        words = _list(record.get("judge"))
        known = dict(enumerate(grades))
        judge = [{"score": known.get(i), "raw": raw} for i, raw in enumerate(words)]
        shown = {**record, "uid": uid, "task": record.get("prompt"), "judge": judge}
        yield _scored_row(shown, "greedy", place, reward=score, judge=score), shown
        return
    for mode, answer in record.items():
        if isinstance(answer, dict) and "messages" in answer:
            about = {"task": record.get("task"), "wanted": record.get("wanted")}
            shown = {**about, **answer, "uid": f"{uid}/{mode}"}
            score = answer.get("true_score")
            yield _scored_row(shown, mode, place, reward=score, truth=score), shown


def _scored_row(
    shown: Mapping[str, Any], mode: str, place: tuple[str, str, int], **scores: Any
) -> list[Any]:
    _, name, number = place
    values = dict.fromkeys(FIELDS) | {
        "uid": shown["uid"],
        "iteration": _whole(name.rpartition("_")[2]),
        "stage": "evaluation",
        "step": 0,
        "group": number,
        "sample": mode,
        "outcome": "answered" if shown.get("answer") else "no answer",
        "errors": [],
        "searches": short(shown.get("searches")),
        "type": "",
        "task": str(shown.get("task") or "")[:TASK_CHARACTERS],
        "source": "",
        "flaws": [],
    }
    return list((values | {key: short(v) for key, v in scores.items()}).values())


def text(value: Any) -> str:
    """All that a person could look for in a record, in small letters."""
    return "\n".join(_strings(value)).replace("\0", " ").lower()


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _judged(trace: Mapping[str, Any]) -> Any:
    return _mapping(trace.get("parts")).get("rubric_score", trace.get("difficulty"))


def _true(trace: Mapping[str, Any]) -> float | None:
    truth = _mapping(trace.get("truth"))
    if "score" in truth:
        return truth["score"]
    return _mean(_list(truth.get("scores")))


def _gap(trace: Mapping[str, Any], judge: Any, truth: Any) -> float | None:
    if is_number(judge) and is_number(truth):
        return round(abs(judge - truth), 6)  # 1/3 may be two numbers
    attempts = [_mapping(attempt) for attempt in _list(trace.get("attempts"))]
    scores = [_mean(_list(attempt.get("scores"))) for attempt in attempts]
    known = [score for score in scores if score is not None]
    return max(known) - min(known) if len(known) > 1 else None


def _mean(values: Sequence[Any]) -> float | None:
    known = [value for value in values if is_number(value)]
    return sum(known) / len(known) if known else None


def _whole(digits: str) -> int:
    return int(digits) if digits.isascii() and digits.isdigit() else 0


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
