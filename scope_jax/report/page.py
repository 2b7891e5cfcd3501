"""One HTML page about a run: curves, tables, readable rollouts, configuration.

Self-contained: inline SVG and CSS, no script and nothing from elsewhere. All text of
models and documents is escaped.
"""

import contextlib
import fnmatch
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from models.errors import DamagedError, UserError
from scope_jax.report import hacking
from scope_jax.report import rollout as report_rollout
from scope_jax.report.charts import COLOURS, line_chart
from scope_jax.report.comparison import Comparison, comparison_html
from scope_jax.report.rollout import escape, pre, reward_of, rollout_html
from scope_jax.report.scores import scores_html
from scope_jax.report.tables import table_names, table_rows
from scope_jax.run import tracking
from scope_jax.run.records import STAGES
from scope_jax.system import settings
from scope_jax.system.files import read_json, read_json_lines, write_text

EXAMPLES = 4
"""Rollouts shown per stage: the best and the worst ones."""

CURVES = (
    ("Reward", "reward/*"),
    ("True scores", "truth/*score truth/*difficulty truth/reward_correlation"),
    ("Grades right, by what the answer says of the rubric", "truth/grades_right*"),
    ("Blanks that cannot be filled", "truth/*impossible truth/*vague truth/*repeated"),
    (
        "Tasks and rubrics, in truth",
        "truth/*answerable truth/*off_document truth/*rubrics_* truth/unanswerable",
    ),
    (
        "Size of tasks and answers",
        "truth/*blanks truth/*hops truth/*described truth/answer_sentences",
    ),
    ("Tasks", "tasks/*"),
    ("Judge", "judge/*"),
    ("Rollouts", "rollout/*"),
    ("Update", "loss/*"),
    ("Sampler against trainer", "agree/*"),
    ("Speed", "perf/*_per_second"),
    ("Prompt tokens saved, slots busy", "perf/*_share"),
)
"""Caption of a chart, and the names of the metrics in it, as patterns."""

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;
color:#1d2733;background:#fff}
h1{margin-bottom:0}h2{margin-top:2.5rem;border-bottom:1px solid #d5dbe1}
table{border-collapse:collapse;margin:1rem 0}
td,th{padding:.15rem .8rem;text-align:right}
td:first-child,th:first-child{text-align:left}tr:nth-child(even){background:#f4f6f8}
.charts{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0}
figcaption{font-weight:600}svg text{font:11px system-ui,sans-serif;fill:#53606c}
"""


def write(run_dir: Path, out: Path | None = None) -> Path:
    """Writes the report of a run and returns its path.

    Raises:
      UserError: the folder is no run's.
    """
    run_dir = Path(run_dir)
    out = run_dir / "report.html" if out is None else Path(out)
    write_text(out, build(run_dir))
    return out


def build(run_dir: Path) -> str:
    """The report of a run as HTML.

    Raises:
      UserError: the folder is no run's.
    """
    run_dir = Path(run_dir)
    config_file = run_dir / "config.json"
    if not config_file.is_file():
        raise UserError(f"{run_dir}: has no config.json: name the folder of a run")
    config = read_json(config_file)
    if not isinstance(config, dict):
        raise DamagedError(config_file, "holds no configuration")
    config_text = json.dumps(config, indent=2, ensure_ascii=False)
    records = tracking.read(run_dir)
    title = f"SCOPE run: {config.get('name', run_dir.name)}"
    body = [f"<h1>{escape(title)}</h1>", f"<p>{escape(_headline(records))}</p>"]
    body += _evaluation(run_dir / "eval")
    for stage in STAGES:
        if stage != "evaluation":
            body += _stage(run_dir, stage, [r for r in records if r["stage"] == stage])
    body.append("<h2>Configuration</h2>")
    body.append(f"<details><summary>config.json</summary>{pre(config_text)}</details>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title>"
        f"<style>{STYLE}{report_rollout.STYLE}</style></head>"
        f"<body>{''.join(body)}</body></html>\n"
    )


def _headline(records: Sequence[Mapping[str, Any]]) -> str:
    if not records:
        return "Nothing was logged yet."
    last = records[-1]
    text = f"{len(records)} records"
    text += f", the last one of iteration {last['iteration']}, {last['stage']} stage"
    text += f", step {last['step']}."
    times = [r["time/unix"] for r in records if r.get("time/unix")]
    minutes = (max(times) - min(times)) / 60 if times else 0.0
    return f"{text} {minutes:.1f} minutes between the first and the last."


def _evaluation(folder: Path) -> list[str]:
    """What evaluations have found, and one task before and after."""
    parts = []
    for file in sorted(folder.glob("*/scores.json")):
        with _shown(file):
            parts += scores_html(file.parent.name, read_json(file))
        compared = file.with_name("before_after.json")
        if compared.is_file():
            with _shown(compared):
                parts.append(comparison_html(settings.load(Comparison, compared)))
    return ["<h2>Evaluation</h2>", *parts] if parts else []


def _stage(run_dir: Path, stage: str, records: list[dict[str, Any]]) -> list[str]:
    if not records:
        return []
    parts = [f"<h2>{escape(stage.capitalize())}</h2>", '<div class="charts">']
    for caption, wanted in CURVES:
        series = _series(records, wanted)
        if series:
            parts.append(line_chart(caption, series, marks=_iteration_marks(records)))
    parts.append(hacking.chart(records, _iteration_marks(records)))
    parts.append("</div>")
    for iteration in sorted({r["iteration"] for r in records}):
        parts.append(f"<h3>Iteration {iteration}</h3>")
        parts.append(_table([r for r in records if r["iteration"] == iteration]))
        parts += _examples(run_dir, iteration, stage)
    return parts


def _series(
    records: Sequence[Mapping[str, Any]], wanted: str
) -> dict[str, list[tuple[float, float]]]:
    """Name -> points (record number in the stage, value), at most eight curves.

    Counts of tokens are left out beside other metrics, which they would flatten.
    """
    names = [
        name
        for name in table_names(list(records))
        if any(fnmatch.fnmatch(name, pattern) for pattern in wanted.split())
        and not name.endswith("/tokens")
    ]
    return {
        name: [
            (i, r[name]) for i, r in enumerate(records, 1) if r.get(name) is not None
        ]
        for name in names[: len(COLOURS)]
    }


def _iteration_marks(records: Sequence[Mapping[str, Any]]) -> list[float]:
    pairs = itertools.pairwise(records)
    changes = enumerate(pairs, 1)
    return [i + 0.5 for i, (a, b) in changes if a["iteration"] != b["iteration"]]


def _table(records: list[dict[str, Any]]) -> str:
    rows = []
    for name, *values in table_rows(records):
        cells = "".join(f"<td>{tracking.format_number(v)}</td>" for v in values)
        rows.append(f"<tr><td>{escape(name)}</td>{cells}</tr>")
    head = "<tr><th>metric</th><th>first</th><th>last</th><th>mean</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _examples(run_dir: Path, iteration: int, stage: str) -> list[str]:
    """The best and the worst rollouts of a stage's last stored step.

    Of task creation: tasks by the score that the Solver reached on them.
    """
    folder = run_dir / "rollouts" / f"iter_{iteration}" / stage
    files = sorted(folder.glob("step_*.jsonl"))
    if not files:
        return []
    name = files[-1].relative_to(run_dir)
    with _shown(files[-1]):
        rollouts = sorted(read_json_lines(files[-1]), key=reward_of, reverse=True)
        if len(rollouts) > EXAMPLES:
            half = EXAMPLES // 2
            rollouts = rollouts[:half] + rollouts[-half:]
        return [
            f"<h4>Best and worst rollouts of {escape(str(name))}</h4>",
            *map(rollout_html, rollouts),
        ]


@contextlib.contextmanager
def _shown(file: Path) -> Iterator[None]:
    """Says of JSON that is not of the form that a run writes which file holds it."""
    try:
        yield
    except UserError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        why = f"not of the form that a run writes ({type(error).__name__}: {error})"
        raise DamagedError(file, why, "restore or remove the file") from error
