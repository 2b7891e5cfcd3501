"""The floors hold, everything imports, and nothing is left that nobody imports."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter import cli as linter

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("models", "retrieval", "rl", "scope_jax", "configs")
"""What is installed."""

FOLDERS = ("ablation", "benchmarks", "initial", "pretraining", "pages")
"""Folders of scripts/, imported by their own names."""


def modules():
    """Names of all modules of the packages."""
    names = []
    for package in (*PACKAGES, *FOLDERS):
        names.append(package)
        path = importlib.import_module(package).__path__
        names += [m.name for m in pkgutil.walk_packages(path, f"{package}.")]
    return names


def imported_by(path):
    """Full names that a file imports: modules, and names that may be modules."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("name", modules())
def test_every_module_imports(name):
    importlib.import_module(name)


def test_imports_only_go_down(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert linter.lint_imports(no_cache=True) == linter.EXIT_STATUS_SUCCESS


def test_nothing_imports_a_script_or_a_test():
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            tops = {name.split(".")[0] for name in imported_by(path)}
            assert not tops & {"scripts", "tests", "conftest"}, path


def test_every_module_is_used_by_another_file():
    files = [
        path for top in (*PACKAGES, "scripts") for path in (ROOT / top).rglob("*.py")
    ]
    used = {}
    for path in files:
        for name in imported_by(path):
            used.setdefault(name, set()).add(path)
    # Run as a program by the supervisor, or found by name in their folder.
    entry = {"scope_jax.inference.server", *PACKAGES}
    entry |= {name for name in modules() if name.startswith("configs.")}
    unused = []
    for name in modules():
        top = ROOT / "scripts" if name.startswith(FOLDERS) else ROOT
        own = top / (name.replace(".", "/") + ".py")
        if name not in entry and own.exists() and not used.get(name, set()) - {own}:
            unused.append(name)
    assert unused == []


def test_the_layer_of_files_needs_no_jax():
    """So that a command which only reads a run folder starts at once."""
    code = "import sys, scope_jax.system.files; print('jax' in sys.modules)"
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert told.stdout.strip() == "False", told.stderr
