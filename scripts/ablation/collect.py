"""Tables and a figure of all summaries: means over seeds with 95% intervals."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy.special import stdtrit  # JAX needs SciPy

from ablation import swaps
from ablation.arms import ARMS
from ablation.summaries import LAST
from models.errors import UserError
from scope_jax.report import charts
from scope_jax.system.files import write_text

Summary = Mapping[str, Any]
Value = Callable[[Summary], float | None]
WORD = {"sampled": "sampled at T=1", "greedy": "greedy"}
HEAD = """# Ablations in the small world

Written by `python scripts/ablate.py --collect` from the summaries in `{folder}`.
Numbers are means over seeds; behind ± stands half of a 95% interval over seeds (Student
t). True scores are those of held-out tasks. Other tables show means over all steps or
batches of a stage; tables of the truth, over its last {last}.

![True scores over iterations]({figure})
"""


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95% interval; NaN for a single value."""
    if len(values) < 2:
        return fmean(values), math.nan
    half = stdtrit(len(values) - 1, 0.975) * stdev(values) / len(values) ** 0.5
    return fmean(values), float(half)


def cell(values: Sequence[float | None], *, sign: bool = False) -> str:
    """Values of all seeds as one cell; a dash where there is none."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean, half = interval(known)
    digits = 1 if abs(mean) >= 10 else 3
    text = f"{mean:+.{digits}f}" if sign else f"{mean:.{digits}f}"
    return text if math.isnan(half) else f"{text} ± {half:.{digits}f}"


def by_arm(summaries: Sequence[Summary]) -> dict[str, list[Summary]]:
    """Summaries of each arm, known arms first, in their order; seeds in order."""
    names = [*ARMS, *sorted({one["arm"] for one in summaries} - ARMS.keys())]
    found = {name: [one for one in summaries if one["arm"] == name] for name in names}
    return {
        name: sorted(those, key=lambda one: one["seed"])
        for name, those in found.items()
        if those
    }


def solvers(summaries: Sequence[Summary]) -> list[str]:
    """``base``, ``iter_1`` and so on, as far as any run goes."""
    longest = max(summaries, key=lambda one: len(one["scores"]))
    return list(longest["scores"])


def score(solver: str, kind: str) -> Value:
    """A Solver's true score in a summary."""
    return lambda one: one["scores"].get(solver, {}).get(kind)


def gain(kind: str) -> Value:
    """True score of a run's last Solver above the base model's."""

    def value(one: Summary) -> float | None:
        found = [scores.get(kind) for scores in one["scores"].values()]
        return None if None in (found[0], found[-1]) else found[-1] - found[0]

    return value


def metric(iteration: int, stage: str, name: str, over: str = "last") -> Value:
    """A metric of a stage in a summary."""

    def value(one: Summary) -> float | None:
        for found in one["iterations"]:
            if found["iteration"] == iteration:
                return found[stage].get(over, {}).get(name)
        return None

    return value


def against(full: Sequence[Summary], value: Value) -> Value:
    """What a run has more than ``full`` has with the same seed."""
    known = {one["seed"]: value(one) for one in full}

    def difference(one: Summary) -> float | None:
        mine, other = value(one), known.get(one["seed"])
        return None if mine is None or other is None else mine - other

    return difference


def table(
    arms: Mapping[str, Sequence[Summary]],
    columns: Mapping[str, Value],
    signed: Sequence[str] = (),
) -> str:
    """A Markdown table: arms down, values across; columns that nobody has are left out.

    Args:
      arms: name -> its summaries.
      columns: heading -> value of a summary.
      signed: headings of differences.
    """
    kept = {
        heading: value
        for heading, value in columns.items()
        if any(value(one) is not None for those in arms.values() for one in those)
    }
    lines = [f"| arm | seeds | {' | '.join(kept)} |", f"|{' --- |' * (len(kept) + 2)}"]
    for name, those in arms.items():
        cells = [
            cell([value(one) for one in those], sign=heading in signed)
            for heading, value in kept.items()
        ]
        lines.append(f"| `{name}` | {len(those)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def page(summaries: Sequence[Summary], folder: str, figure: str) -> str:
    """The Markdown page of all tables."""
    arms, names = by_arm(summaries), solvers(summaries)
    parts = [HEAD.format(folder=folder, figure=figure, last=LAST)]
    parts.append(
        "".join(f"- `{a}`: {ARMS[a].about}\n" for a in arms if a in ARMS),
    )
    for kind, word in WORD.items():
        columns = {name: score(name, kind) for name in names}
        columns["last - base"] = gain(kind)
        last = score(names[-1], kind)
        columns["last - full"] = against(arms.get("full", ()), last)
        parts.append(f"## True score, {word}\n")
        parts.append(table(arms, columns, ("last - base", "last - full")))
    iterations = range(1, len(names))
    shown = {
        "Rubric score, Challenger stage": ("challenger", "reward/rubric_score"),
        "Rubric score, task creation": ("tasks", "reward/rubric_score"),
        "Rubric score, Solver stage": ("solver", "reward/rubric_score"),
        "Answer length in tokens, Solver stage": ("solver", "rollout/answer_tokens"),
        "Tasks kept per batch": ("tasks", "tasks/kept"),
        "Tasks too easy per batch": ("tasks", "tasks/too_easy"),
        "Tasks too hard per batch": ("tasks", "tasks/too_hard"),
    }
    for title, (stage, name) in shown.items():
        columns = {f"iter_{i}": metric(i, stage, name, "mean") for i in iterations}
        parts += [f"## {title}\n", table(arms, columns)]
    parts += _truths(arms, iterations)
    counts = sorted({(one["evaluation"]["count"], one["commit"]) for one in summaries})
    parts.append("Tasks of the evaluation and commits: ")
    parts[-1] += ", ".join(f"{n} ({commit})" for n, commit in counts) + ".\n"
    return "\n".join(parts)


def _truths(
    arms: Mapping[str, Sequence[Summary]], iterations: Sequence[int]
) -> list[str]:
    """One table per stage: what is true at its end, in the last iteration."""
    parts, last = [], iterations[-1]
    for stage in ("challenger", "tasks", "solver"):
        names = {
            name
            for those in arms.values()
            for one in those
            for found in one["iterations"]
            for name in found[stage].get("last", {})
            if name.startswith(("truth/", "alarm/"))
        }
        columns = {
            name.removeprefix("truth/"): metric(last, stage, name)
            for name in sorted(names)
        }
        if columns:
            parts.append(f"## Truth at the end of iteration {last}, {stage}\n")
            parts.append(table(arms, columns))
    return parts


def figure(summaries: Sequence[Summary], kind: str = "sampled") -> str:
    """True score over iterations, a line per arm with its interval, as SVG."""
    arms, names = by_arm(summaries), solvers(summaries)
    series: dict[str, list[tuple[float, float]]] = {}
    ranges: dict[str, list[tuple[float, float, float]]] = {}
    for number, (arm, those) in enumerate(arms.items()):
        aside = 0.025 * (number - (len(arms) - 1) / 2)  # or intervals hide one another
        series[arm], ranges[arm] = [], []
        for place, name in enumerate(names):
            values = [score(name, kind)(one) for one in those]
            known = [value for value in values if value is not None]
            if not known:
                continue
            mean, half = interval(known)
            series[arm].append((place + aside, mean))
            if not math.isnan(half):
                ranges[arm].append((place + aside, mean - half, mean + half))
    drawing = charts.lines(series, ranges=ranges)
    if not drawing:
        return ""
    width, high = charts.WIDTH, charts.HEIGHT
    total = high + 34 + 16 * math.ceil(len(arms) / 3)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" '
        f'width="{width}" height="{total}" role="img">'
        "<style>text{font:11px system-ui,sans-serif;fill:#53606c}</style>"
        f'<rect width="{width}" height="{total}" fill="#fff"/>',
        drawing,
        f'<text x="{charts.LEFT}" y="{high + 14}">True score, {WORD[kind]}, after '
        f"iterations 0 to {len(names) - 1}; bars: 95% over seeds</text>",
    ]
    for number, (arm, colour) in enumerate(zip(arms, charts.COLOURS, strict=False)):
        x, y = charts.LEFT + number % 3 * 130, high + 34 + number // 3 * 16
        parts.append(
            f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{colour}"/>'
            f'<text x="{x + 14}" y="{y}">{escape(arm)}</text>'
        )
    return "".join([*parts, "</svg>\n"])


def write(summaries: Sequence[Summary], folder: Path) -> list[Path]:
    """Writes page and figure beside the folder of the summaries; returns their paths.

    Raises:
      UserError: there is no summary.
    """
    if not summaries:
        raise UserError(f"{folder}: holds no summary: run scripts/ablate.py first")
    place = folder.parent
    text = page(summaries, folder.name, "ablations.svg") + swaps.section(folder)
    write_text(place / "ablations.md", text)
    write_text(place / "ablations.svg", figure(summaries))
    return [place / "ablations.md", place / "ablations.svg"]
