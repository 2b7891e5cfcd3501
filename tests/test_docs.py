"""What README and docs name exists: code, settings, files, benchmarks."""

import importlib
import re
import textwrap
from pathlib import Path

import pytest

import configs
from pages.source import INSTALLED
from scope_jax.system.settings import leaves

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
SETTINGS = [name for name, _, _ in leaves(configs.load("tiny"))]

pages = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


def is_code(name):
    """Whether a dotted name is a module, or something in one."""
    module, _, attribute = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        try:
            return hasattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError:
            return False
    return True


@pages
def test_every_dotted_name_is_code_or_a_setting(page):
    quoted = re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))
    named = rf"(?<![\w./-])(?:{'|'.join(INSTALLED)})(?:\.\w+)+"
    names = {name for text in quoted for name in re.findall(named, text)}
    assert {n for n in names if n not in SETTINGS and not is_code(n)} == set()


@pages
def test_every_file_and_every_benchmark_exists(page):
    from scripts import bench

    text = page.read_text(encoding="utf-8")
    tops = "|".join((*INSTALLED, "scripts", "docs", "tests"))
    paths = re.findall(
        rf"(?<![\w./-])(?:{tops})/[\w./-]+\.(?:py|md|toml|jsonl?|svg)", text
    )
    assert [p for p in paths if "NAME" not in p and not (ROOT / p).is_file()] == []
    assert set(re.findall(r"python scripts/bench\.py (\w+)", text)) <= set(
        bench.BENCHMARKS
    )
    links = re.findall(r"\]\((\w[\w./-]*\.\w+)", text)
    assert [link for link in links if not (page.parent / link).is_file()] == []


def test_the_python_of_the_configuration_page_runs(tmp_path):
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    block = re.search(r"In Python:\n\n((?:    .*\n|\n)+)", text)[1]
    known = {"path": tmp_path / "config.json"}
    *lines, equal, different = textwrap.dedent(block).strip().splitlines()
    exec("\n".join(lines), known)
    assert eval(equal, known)
    call, _, result = different.partition("#")
    assert eval(call, known) == eval(result, known)


def test_a_name_that_is_nothing_is_found():
    assert is_code("scope_jax.config.Config") and is_code("rl.learner")
    assert not is_code("scope_jax.config.Nothing") and not is_code("rl.nothing.At")
