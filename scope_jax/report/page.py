"""One HTML page about one or more runs, which needs nothing but itself.

The page is data and the scripts of ``static/`` (uPlot draws the curves). What models,
documents and searches have said gets into it as JSON that no HTML parser looks into,
and out of it as text nodes; a content security policy lets only our own script run, and
nothing be loaded.
"""

import base64
import functools
import hashlib
import html
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from scope_jax.report import arms, runs
from scope_jax.report.bundle import bundle
from scope_jax.system.files import write_text

SCRIPTS = ("vendor/uPlot.iife.min.js", "dom.js", "data.js", "stats.js", "plots.js")
SCRIPTS += ("words.js", "curves.js", "learned.js", "by_task.js", "tasks.js")
SCRIPTS += ("judge.js", "time.js", "settings.js", "list.js", "rollout.js", "group.js")
SCRIPTS += ("compared.js", "main.js")
STYLES = ("vendor/uPlot.min.css", "page.css", "reader.css")
LICENCE = "vendor/uPlot.LICENSE"


def write(run_dir: Path, out: Path | None = None, *more: Path) -> Path:
    """Writes the page about a run, and about others beside it; returns its path.

    Raises:
      UserError: a folder is no run's.
    """
    run_dir = Path(run_dir)
    out = run_dir / "report.html" if out is None else Path(out)
    write_text(out, build(run_dir, *more))
    return out


def build(*run_dirs: Path) -> str:
    """The page about some runs as HTML.

    Raises:
      UserError: a folder is no run's.
    """
    about = describe(run_dirs)
    about["rollouts"], chunks, problems = bundle(run_dirs)
    about["problems"] += problems
    return shell(about, chunks)


def describe(run_dirs: Sequence[Path]) -> dict[str, Any]:
    """All that the page shows of some runs, apart from their rollouts."""
    found = [runs.load(run_dir) for run_dir in run_dirs]
    return {
        "runs": found,
        "arms": arms.arms(found),
        "differences": arms.differences(found),
        "problems": [p for run in found for p in run.pop("problems")],
    }


def shell(
    about: dict[str, Any], chunks: Sequence[str] = (), *, served: bool = False
) -> str:
    """The page around its data.

    Args:
      about: what ``describe`` gives, and ``rollouts``.
      chunks: of conversations, see ``bundle``.
      served: whether it may ask the server that it comes from for more.
    """
    # A scope of its own: nothing becomes a property of the window.
    script, style = f"(() => {{\n{_joined(SCRIPTS)}\n}})();", _joined(STYLES)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; script-src 'sha256-{digest}'; "
    policy += "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    policy += "; connect-src 'self'" if served else ""
    title = " and ".join(run["name"] for run in about["runs"][:3])
    packed = "\n".join(
        f'<script type="text/plain" id="part-{number}">{chunk}</script>'
        for number, chunk in enumerate(chunks)
    )
    licence = _text(LICENCE).replace("--", "- -")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{html.escape(title)} - scope_jax</title>
<!-- The curves are drawn by uPlot. {licence} -->
<style>{style}</style></head>
<body><noscript><p>This page needs JavaScript: all of it is in this file.</p></noscript>
<div id="app"></div>
<script type="application/json" id="data">{inert(about)}</script>
{packed}
<script>{script}</script>
</body></html>
"""


def inert(value: Any) -> str:
    """JSON in ASCII without a character that HTML knows."""
    text = json.dumps(value, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


@functools.cache
def _joined(names: Sequence[str]) -> str:
    """Files one after the other; none of them ends the element that they are put in."""
    text = "\n".join(map(_text, names))
    if "</script" in text or "</style" in text:
        raise ValueError("a static file holds the end of its own element")
    return text


def _text(name: str) -> str:
    return (resources.files("scope_jax.report") / "static" / name).read_text("utf-8")
