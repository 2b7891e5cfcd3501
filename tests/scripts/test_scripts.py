"""Every script answers from anywhere, and says in one line that it cannot start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(
    p for p in (ROOT / "scripts").glob("*.py") if "__main__" in p.read_text()
)


def run(script, *options, folder, path, python=()):
    """A script with this import path, run in another folder."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"PYTHONPATH": os.pathsep.join(map(str, path))} if path else {}
    return subprocess.run(
        [sys.executable, *python, script, *options],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_help_is_answered_from_any_folder(script, tmp_path):
    # -P, as PYTHONSAFEPATH: Python does not look beside the script by itself.
    done = run(script, "--help", folder=tmp_path, path=[ROOT], python=["-P"])
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout) > 100


def test_a_script_is_a_module_too():
    done = run("-m", "scripts.train", "--help", folder=ROOT, path=[])
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_another_package_of_the_same_name_is_one_line(script, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models/__init__.py").write_text("class User: ...\n")
    done = run(script, "--help", folder=tmp_path, path=[tmp_path, ROOT])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: models: Python finds {tmp_path / 'models'} before {ROOT / 'models'}: "
        f"remove {tmp_path} from PYTHONPATH\n"
    )


def test_another_scope_jax_is_the_one_that_has_to_go(tmp_path):
    (tmp_path / "scope_jax").mkdir()
    (tmp_path / "scope_jax/__init__.py").touch()
    done = run(SCRIPTS[0], folder=tmp_path, path=[tmp_path, ROOT])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: scope_jax: Python finds {tmp_path / 'scope_jax'} before "
        f"{ROOT / 'scope_jax'}: remove {tmp_path} from PYTHONPATH\n"
    )


def test_packages_of_another_place_that_no_variable_names_are_to_be_installed(tmp_path):
    """As where another checkout of the project is installed."""
    for name in ("scope_jax", "models", "rl", "retrieval", "configs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    start = tmp_path / "start.py"
    start.write_text(
        f"import sys; sys.path += [{str(ROOT / 'scripts')!r}]; import check_packages\n"
    )
    done = run(start, folder=tmp_path, path=[])
    assert done.stderr == (
        f"error: scope_jax: Python finds {tmp_path / 'scope_jax'} before "
        f"{ROOT / 'scope_jax'}: pip install -e {ROOT}, or use a fresh virtual "
        "environment\n"
    )


@pytest.mark.parametrize("name", ["rl", "retrieval", "configs"])
def test_all_names_are_looked_at_modules_included(name, tmp_path):
    (tmp_path / f"{name}.py").touch()
    done = run(SCRIPTS[0], folder=tmp_path, path=[tmp_path, ROOT])
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"{name}: Python finds {tmp_path / name}.py before" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_without_an_installation_it_says_how_to_install(script, tmp_path):
    done = run(script, folder=tmp_path, path=[], python=["-S"])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: scope_jax: not installed for ")
    assert done.stderr.endswith(f": pip install -e {ROOT}\n")
