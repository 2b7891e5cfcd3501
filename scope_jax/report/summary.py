"""What came of a run, on one screen of a terminal: scores, tasks, time, one task."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from scope_jax.report import runs
from scope_jax.report.scores import interval
from scope_jax.run.numbers import format_number
from scope_jax.run.printable import one_line
from scope_jax.run.progress import duration

MODES = ("sampled", "greedy")
LONGEST = 300
"""Characters of a task or an answer."""


def summary(run_dir: Path) -> RenderableType:
    """The summary of a run, however far it is.

    Raises:
      UserError: the folder is no run's.
    """
    run = runs.load(run_dir)
    lines = [*_scores(run), *_stages(run), *_alarms(run), *_compared(run)]
    lines.append(Text.assemble(("read it: ", "dim"), str(run_dir / "report.html")))
    return Panel(Group(*lines), title=_title(run), title_align="left")


def _title(run: Mapping[str, Any]) -> Text:
    times = [t for one in run["curves"].values() for t in one["unix"] if t]
    took = duration(max(times) - run["began"]) if times and run["began"] else ""
    return Text(f"{run['folder']}: what came of it" + (f" in {took}" if took else ""))


def _scores(run: Mapping[str, Any]) -> Iterator[Text]:
    for one in run["evaluations"]:
        names = list(one["scores"])
        for mode in MODES:
            metric = f"eval/{mode}/true_score"
            known = [n for n in names if one["scores"][n].get(metric) is not None]
            if not known:
                continue
            each = [f"{n} {interval(one['scores'][n], metric)}" for n in known]
            yield Text.assemble((f"true score, {mode}: ", "bold"), "  ".join(each))
            gain = one["gains"].get(known[-1], {}).get(mode)
            if gain:
                yield _gain(gain)


def _gain(gain: Sequence[float]) -> Text:
    mean, half = gain
    sure = abs(mean) > half
    word = "more" if mean > 0 else "less"
    told = f"{word} than chance explains" if sure else "chance explains it"
    style = "" if not sure else "#2f9e4f" if mean > 0 else "#d1495b"
    return Text.assemble(
        "  over the base model, task by task: ",
        (f"{mean:+.3f} ± {half:.3f}", f"bold {style}"),
        f" ({told})",
    )


def _stages(run: Mapping[str, Any]) -> Iterator[Text]:
    """A line per stage: its reward or its tasks, at its beginning and at its end."""
    for stage, name in (("challenger", "Challenger"), ("solver", "Solver")):
        curves = run["curves"][stage]
        rewards = curves["metrics"].get("reward/mean", [])
        each = []
        for iteration in dict.fromkeys(curves["iteration"]):
            own = [
                reward
                for reward, number in zip(rewards, curves["iteration"], strict=False)
                if number == iteration and reward is not None
            ]
            if own:
                each.append(f"{format_number(own[0])} → {format_number(own[-1])}")
        if each:
            yield Text.assemble((f"{name}'s reward: ", "bold"), "  ".join(each))
    tasks = [
        f"{stage['tasks']} of {stage['wanted']}"
        for name, stage in run["stages"].items()
        if name.endswith("/tasks") and "wanted" in stage and "tasks" in stage
    ]
    if tasks:
        yield Text.assemble(("tasks kept: ", "bold"), "  ".join(tasks))


def _alarms(run: Mapping[str, Any]) -> Iterator[Text]:
    if told := run["alarms"].get("solver"):
        yield Text.assemble(("judge exploited: ", "bold"), told)


def _compared(run: Mapping[str, Any]) -> Iterator[Text]:
    """One held-out task, and what two Solvers answered."""
    found = [one["compared"] for one in run["evaluations"] if one["compared"]]
    for one in found[-1:]:
        yield Text()
        yield Text.assemble(("one task: ", "bold"), _short(one.get("task")))
        for side in (one.get("before") or {}, one.get("after") or {}):
            score = format_number(side.get("true_score"))
            head = f"{side.get('name')}: true score {score}: "
            answer = _short(side.get("answer")) or "(no valid answer)"
            yield Text.assemble((head, "bold"), answer)


def _short(value: Any) -> str:
    """The beginning of a model's text, on one line and without control characters."""
    text = one_line(str(value or ""))
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
