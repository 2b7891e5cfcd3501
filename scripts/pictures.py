"""Makes the pictures of README from a finished run: the terminal, the reader.

    python scripts/pictures.py runs/tiny

Writes docs/pictures/. Needs Playwright (`pip install -e ".[browser]"`) and a Chromium.
"""

import io
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import check_packages  # noqa: F401, I001 (before what only an installation has)
from rich.console import Console

from models.errors import UserError
from scope_jax.report import page as report
from scope_jax.report import stored
from scope_jax.report.rows import FIELDS
from scope_jax.run import cli, tracking
from scope_jax.run.screen import LastWarning, Screen, State

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "pictures"
COLUMNS = 100
SIZE = {"width": 1280, "height": 800}


def terminal(run: Path) -> str:
    """The screen as it was in the middle of the last Solver stage, as SVG."""
    records = tracking.read(run)
    own = [r for r in records if r["stage"] == "solver"]
    own = [r for r in own if r["iteration"] == own[-1]["iteration"]] if own else []
    if len(own) < 3:
        raise UserError(
            f"{run}: has no three steps of the Solver: finish the run first"
        )
    shown = own[: 2 * len(own) // 3]
    before = records[: records.index(shown[-1]) + 1]
    ends = [r["time/unix"] for r in shown]
    state = State(
        name=run.name,
        iteration=shown[-1]["iteration"],
        iterations=records[-1]["iteration"],
        stage="solver",
        total=len(own),
        done=len(shown),
        began=records[0]["time/unix"] - 20,
        records=lambda: before,
        warning=LastWarning(),
        times=[2 * ends[0] - ends[1], *ends],
        inner=("rollouts rewarded", 53, 128),
    )
    console = Console(
        width=COLUMNS, record=True, file=io.StringIO(), force_terminal=True
    )
    console.print(Screen(state, lambda: ends[-1] + 2))
    return console.export_svg(title="python scripts/train.py --config tiny")


def one_rollout(run: Path) -> str:
    """Of the last Solver step, the rollout of which judge and truth differ most."""
    source = [one for one in stored.sources(run) if one.stage == "solver"][-1]
    rows = [dict(zip(FIELDS, row, strict=True)) for row in stored.read(source).rows]
    differing = [row for row in rows if row["searches"] == 2] or rows
    return max(differing, key=lambda row: (row["gap"] or 0, row["reward"]))["uid"]


def main(argv: Sequence[str]) -> int:
    parser = cli.ArgumentParser(prog="pictures.py", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    options = parser.parse_args(argv)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise UserError(
            'playwright: is not installed: pip install -e ".[browser]"'
        ) from error
    svg, uid = terminal(options.run), one_rollout(options.run)
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = report.write(options.run, Path(folder) / "report.html")
        (Path(folder) / "terminal.svg").write_text(svg, encoding="utf-8")
        drawn = Path(folder) / "terminal.html"
        drawn.write_text('<img src="terminal.svg" style="width:1000px">')
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"]
        )
        tab = browser.new_page(viewport=SIZE)
        tab.goto(drawn.as_uri())
        tab.locator("img").screenshot(path=PICTURES / "terminal.png")
        views = {
            "learned": "learned",
            "reader": f"rollout&run=0&uid={uid}&stage=solver",
        }
        for name, view in views.items():
            tab.goto("about:blank")
            tab.goto(f"{file.as_uri()}#view={view}")
            tab.wait_for_selector("main section")
            time.sleep(0.5)  # the curves are drawn when they are seen
            tab.screenshot(path=PICTURES / f"{name}.png")
        browser.close()
    print(*sorted(PICTURES.glob("*.png")), sep="\n")
    return 0


if __name__ == "__main__":
    cli.run_main(main)
