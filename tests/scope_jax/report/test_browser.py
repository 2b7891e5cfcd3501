"""The page in a browser: nothing overflows, everything works by keyboard, no text acts.

Needs Playwright and axe (`pip install -e ".[browser]"`) and Chromium, such as Debian's
package `chromium`; skipped where they are not.
"""

import json
import shutil
import time

import pytest

from scope_jax.report import bundle, page, serve
from scope_jax.system.files import write_json_lines
from tests.live import serving
from tests.scope_jax.report.run_folders import HOSTILE, compared, make, solver_record

playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
if not CHROMIUM:
    pytest.skip("no Chromium: apt-get install chromium", allow_module_level=True)

FIRST = "run=0&uid=1/solver/1/0/1"
VIEWS = ("learned", "tasks", "judge", "curves", "time", "rollouts", "settings")
PAGES = (*VIEWS, f"rollout&{FIRST}", f"group&{FIRST}")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield found
        found.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The page of a run, of two beside each other, and of one with hostile text."""
    folder = tmp_path_factory.mktemp("runs")
    first, second = make(folder / "a"), make(folder / "b", seed=2)
    make(folder / "hostile", said=HOSTILE, config={"note": HOSTILE}.items())
    return {
        "one": page.write(first),
        "two": page.write(first, folder / "two.html", second),
        "hostile": page.write(folder / "hostile"),
    }


@pytest.fixture
def tab(browser):
    """A tab; at the end, nothing was said on its console."""
    context = browser.new_context(viewport={"width": 1024, "height": 800})
    opened, said = context.new_page(), []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(error.message))
    opened.on("request", lambda request: opened.asked.append(request.url))
    opened.asked = []
    yield opened
    context.close()
    assert said == []


def show(tab, file, view="learned"):
    tab.goto("about:blank")
    tab.goto(f"{file.as_uri()}#view={view}")
    tab.wait_for_selector("html[data-ready]")
    playwright.expect(tab.locator("main")).not_to_contain_text("unpacking")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 1024, 400])
def test_no_view_is_wider_than_the_window_or_hard_to_read(tab, files, width, scheme):
    tab.set_viewport_size({"width": width, "height": 800})
    tab.emulate_media(color_scheme=scheme)
    for view in PAGES:
        show(tab, files["two" if width == 1440 else "one"], view)
        wide = "document.documentElement.scrollWidth - innerWidth"
        assert tab.evaluate(wide) <= 0, view
        said = tab.locator("main").inner_text().split()
        assert not {"undefined", "NaN", "[object"} & set(said), view
        assert view == "settings" or "null" not in said, view  # a setting may be
        if width != 1024:
            found = axe.Axe().run(tab).response["violations"]
            serious = [v for v in found if v["impact"] in ("serious", "critical")]
            assert serious == [], view
    assert all(url.startswith(("file:", "about:")) for url in tab.asked)


def test_it_says_what_was_learned_and_how_sure(tab, files):
    show(tab, files["one"])
    said = tab.locator(".verdicts").inner_text()
    assert (
        "sampled as in training: base 0.188, iteration 1 0.438: +0.250 ± 0.000" in said
    )
    assert "better than chance explains" in said
    show(tab, files["one"], "tasks")
    said = tab.locator("main").inner_text()
    assert "too hard: the previous Solver met too few of its rubrics" in said
    assert "1 (33.3%)" in said
    show(tab, files["two"], "settings")
    assert "seed\n1\n2" in tab.locator("main").inner_text().replace("\t", "\n")


def test_everything_can_be_done_with_the_keyboard(tab, files):
    show(tab, files["one"])
    tab.keyboard.press("6")
    tab.wait_for_selector("table.rollouts")
    tab.keyboard.press("/")
    tab.keyboard.type("Task 1 of Step 2")
    playwright.expect(tab.locator("main")).to_contain_text("4 of 43 rollouts with")
    tab.keyboard.press("Escape")
    tab.keyboard.press("j")
    tab.keyboard.press("j")
    tab.keyboard.press("Enter")
    tab.wait_for_selector(".why")
    assert tab.locator("h1").inner_text() == "Rollout 1/solver/2/1/1"
    assert tab.locator("mark").first.inner_text().lower() == "task 1 of step 2"
    tab.keyboard.press("j")
    playwright.expect(tab.locator("h1")).to_contain_text("2/1/2")
    tab.keyboard.press("k")
    playwright.expect(tab.locator("h1")).to_contain_text("2/1/1")
    tab.keyboard.press("g")
    tab.wait_for_selector(".sides.many .side:nth-child(4)")
    tab.keyboard.press("u")
    tab.wait_for_selector(".columns")
    tab.keyboard.press("u")
    tab.wait_for_selector("table.rollouts")
    tab.keyboard.press("?")
    tab.wait_for_selector("dialog[open]")
    tab.keyboard.press("Escape")
    tab.keyboard.press("4")
    tab.wait_for_selector("figure button")
    tab.locator("figure button").first.focus()
    tab.keyboard.press("Enter")
    tab.wait_for_selector("dialog[open] canvas")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("+")
    assert tab.locator(".readout").inner_text().startswith("step 2. reward/mean: 0.5")
    tab.keyboard.press("Escape")
    assert tab.locator("dialog[open]").count() == 0


def test_each_control_is_reached_by_tab_and_shows_that_it_is(tab, files):
    for view in PAGES:
        show(tab, files["one"], view)
        count = "document.querySelectorAll('a[href], button, input, select').length"
        reached = set()
        for _ in range(tab.evaluate(count) + 30):
            tab.keyboard.press("Tab")
            found = tab.evaluate(
                """() => { const e = document.activeElement;
                if (!e || e === document.body) return null;
                window.ids ??= new Map();
                if (!window.ids.has(e)) window.ids.set(e, window.ids.size);
                return [window.ids.get(e), getComputedStyle(e).outlineStyle]; }"""
            )
            if found:
                reached.add(found[0])
                assert found[1] != "none", view
        all_ = """[...document.querySelectorAll('a[href], button, input, select')]
            .filter((e) => !e.disabled && e.checkVisibility()).length"""
        assert len(reached) >= tab.evaluate(all_), view


def test_text_of_models_can_neither_run_nor_hide(tab, files):
    for view in PAGES:
        show(tab, files["hostile"], view)
        assert tab.evaluate("window.hacked") is None, view
        assert tab.locator("main img, main script").count() == 0
    show(tab, files["hostile"], f"rollout&{FIRST}")
    said = tab.locator(".said.assistant").last
    shown = said.inner_text()
    for text in ("<script>window.hacked", "U+202E", "U+0000", "U+001B", "U+200B"):
        assert text in shown
    assert "U+D83D" in shown and "شكرا" in shown and "\u202e" not in shown
    box = said.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 1024


def test_a_line_of_a_megabyte_neither_breaks_the_page_nor_is_lost(tab, tmp_path):
    show(tab, page.write(make(tmp_path / "run", said="x" * 2**20)), f"rollout&{FIRST}")
    more = tab.locator(".said.assistant button.more")
    assert more.inner_text() == "show more: 1,042,576 characters are left"
    while more.count():
        more.click()
    assert tab.locator(".said.assistant").last.text_content() == "x" * 2**20
    assert tab.evaluate("document.documentElement.scrollWidth") <= 1024


def test_what_is_trained_on_is_shaded_by_its_advantage(tab, files):
    show(tab, files["one"], f"rollout&{FIRST}")
    spans = tab.locator(".said .trained")
    assert spans.all_inner_texts() == ["<search>Name</search>", "an ans"]
    assert spans.first.get_attribute("title") == "trained on, advantage -0.125"
    assert "4 of 9 tokens trained on" in tab.locator("main").inner_text()


def test_a_link_leads_to_one_rollout_with_its_filters(tab, files):
    state = "rollout&run=0&uid=1%2Fsolver%2F2%2F0%2F3&stage=solver&sort=reward"
    show(tab, files["one"], state)
    assert tab.locator("h1").inner_text() == "Rollout 1/solver/2/0/3"
    assert "of 24" in tab.locator(".travel").inner_text()
    show(tab, files["one"], "rollout&run=0&uid=none")
    assert "There is no rollout none" in tab.locator("main").inner_text()


def test_a_number_of_wrong_scores_leads_to_just_those(tab, files):
    show(tab, files["one"], "judge")
    links = tab.locator("table", has_text="off by more than").get_by_role("link")
    wrong = [int(text.split()[0]) for text in links.all_inner_texts()]
    assert sum(wrong) > 0
    for number, count in enumerate(wrong):
        show(tab, files["one"], "judge")
        links.nth(number).click()
        playwright.expect(tab.locator("h1")).to_have_text("Rollouts")
        assert f"{count} of " in tab.get_by_role("status").last.inner_text()
    tab.get_by_role("button", name="off by more than 0.3 ×").click()
    playwright.expect(tab.get_by_role("status").last).to_contain_text("24 of ")


def test_flaws_that_are_known_lead_to_the_tasks_that_have_them(tab, files):
    show(tab, files["one"], "tasks")
    tab.locator("table", has_text="false rubric").get_by_role("link").first.click()
    playwright.expect(tab.locator("h1")).to_have_text("Rollouts")
    assert "1 of 43" in tab.get_by_role("status").last.inner_text()
    tab.locator("[data-row]").first.click()
    playwright.expect(tab.locator(".facts")).to_contain_text("false rubric")
    show(tab, files["one"], "judge")
    causes = tab.locator("table", has_text="judge graded a rubric wrongly")
    count = causes.get_by_role("link").first.inner_text().split()[0]
    assert count == "3" and "0 rollouts" in causes.inner_text()


def test_back_leads_to_where_one_was(tab, files):
    show(tab, files["one"], "rollouts")
    tab.evaluate("scrollTo(0, 400)")
    deadline = time.monotonic() + 10
    while tab.evaluate("history.state?.y") != 400 and time.monotonic() < deadline:
        tab.wait_for_timeout(20)
    tab.locator("[data-row]").nth(20).evaluate("link => link.click()")
    playwright.expect(tab.locator("h1")).to_contain_text("Rollout ")
    assert tab.evaluate("scrollY") == 0
    tab.go_back()
    playwright.expect(tab.locator("h1")).to_have_text("Rollouts")
    assert tab.evaluate("scrollY") == 400


def test_words_and_metrics_are_explained_where_they_stand(tab, files):
    show(tab, files["one"])
    assert "1 stages done" in tab.locator(".headline").inner_text()
    assert "This is one seed" in tab.locator(".verdicts").inner_text()
    tab.keyboard.press("w")
    said = tab.locator("dialog[open]").inner_text()
    assert "the share of the facts a task asks for" in said
    assert "rubrics that state a true fact" in said
    tab.keyboard.press("Escape")
    by_task = tab.locator(
        "section", has=tab.get_by_role("heading", name="Task by task")
    )
    assert "Of 4 tasks, 4 went better than with the base" in by_task.inner_text()
    show(tab, files["two"])
    over = tab.locator("figure .u-over").first
    over.hover(position={"x": over.bounding_box()["width"] - 20, "y": 40})
    legend = tab.locator("figure .u-legend").first.inner_text()
    assert "iteration 1" in legend and "1.0" not in legend


@pytest.mark.parametrize("width", [1440, 400])
def test_compared_models_lead_from_a_score_to_every_answer(tab, tmp_path, width):
    file = compared(tmp_path / "one" / "report.html")
    tab.set_viewport_size({"width": width, "height": 800})
    pages = (
        "compared",
        "rollouts",
        "rollout&uid=eval/nq/new/1",
        "group&uid=eval/nq/new/1",
    )
    for view in pages:
        show(tab, file, view)
        assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        said = tab.locator("main").inner_text().split()
        assert not {"undefined", "NaN", "null", "[object"} & set(said), view
        found = axe.Axe().run(tab).response["violations"]
        serious = [v for v in found if v["impact"] in ("serious", "critical")]
        assert serious == [], view
    assert tab.locator(".side").count() == 2
    show(tab, file)
    said = tab.locator("main").inner_text()
    assert "new: +0.250 [0.100, 0.300] (nq): better than chance explains" in said
    tab.get_by_role("link", name="0.750").click()
    playwright.expect(tab.locator("h1")).to_have_text("Answers")
    assert "2 of 4" in tab.get_by_role("status").last.inner_text()
    assert "advantage" not in tab.locator("main table").inner_text()
    tab.locator("[data-row]").last.click()
    playwright.expect(tab.locator(".grades")).to_contain_text("of the right answers1")
    assert "right: 42" in tab.locator("main").inner_text()


def test_search_begins_where_one_can_type(tab, files):
    for view in (f"rollout&{FIRST}&sort=reward", "time"):
        show(tab, files["one"], view)
        tab.keyboard.press("/")
        playwright.expect(tab.locator("#find-q")).to_be_focused()
        assert ("sort=reward" in tab.url) == view.endswith("sort=reward")
        tab.keyboard.type("1")
        playwright.expect(tab.locator("h1")).to_have_text("Rollouts")


def test_a_large_page_fits_and_opens(tab, tmp_path):
    run = make(tmp_path / "run")
    folder = run / "rollouts/iter_1/solver"
    for step in range(1, 81):
        played = [solver_record(step, g, s) for g in range(16) for s in range(8)]
        write_json_lines(folder / f"step_{step:04d}.jsonl", played)
    file = page.write(run)
    assert file.stat().st_size < 50 * 2**20
    started = time.monotonic()
    show(tab, file, "rollouts")
    assert time.monotonic() - started < 20  # a second, where nothing else runs
    said = tab.locator("[role=status]").inner_text()
    assert f"of {80 * 128 + 19:,} rollouts" in said and "--serve shows all" in said
    held = json.loads(tab.locator("#data").inner_text())["rollouts"]["held"]
    assert bundle.MOST * 0.98 <= held <= bundle.MOST * 1.01


def test_the_server_s_page_is_the_same(tab, tmp_path, monkeypatch):
    monkeypatch.setenv("SCOPE_JAX_CACHE", str(tmp_path / "cache"))
    with serving(serve.app([make(tmp_path / "run")])) as port:
        tab.goto(f"http://127.0.0.1:{port}/#view=rollouts&q=task 1 of step 2")
        playwright.expect(tab.locator("main")).to_contain_text("4 of 43 rollouts")
        tab.locator("[data-row]").first.click()
        tab.wait_for_selector(".why")
        assert tab.locator("h1").inner_text() == "Rollout 1/solver/2/1/0"
