"""Checks that Python finds this project's packages; every script imports it first.

Their names are common ones: another package of the same name would be imported instead,
and what it lacks would end the script in the middle. Before that, every script puts its
own folder on the import path, which neither ``python -m`` nor PYTHONSAFEPATH does.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("scope_jax", "models", "rl", "retrieval", "configs")


def place_of(package: str) -> Path | None:
    """The folder that a package would be imported from, or the file; None: nowhere."""
    spec = find_spec(package)
    if spec is None:
        return None
    return Path(next(iter(spec.submodule_search_locations or [spec.origin]))).resolve()


def problem() -> str:
    """What is wrong and what to do about it, in one line; empty if nothing is."""
    install = f"pip install -e {ROOT}"
    places = {name: place_of(name) for name in PACKAGES}
    # Scripts that were copied out of the project use the one that is installed.
    ours = ROOT if (ROOT / "scope_jax").is_dir() else None
    if ours is None and places["scope_jax"]:
        ours = places["scope_jax"].parent
    for name, found in places.items():
        if found is None:
            return f"{name}: not installed for {sys.executable}: {install}"
        if found != ours / name:
            listed = os.environ.get("PYTHONPATH", "").split(os.pathsep)
            remedy = f"{install}, or use a fresh virtual environment"
            if str(found.parent) in (os.path.realpath(path) for path in listed if path):
                remedy = f"remove {found.parent} from PYTHONPATH"
            return f"{name}: Python finds {found} before {ours / name}: {remedy}"
    return ""


if said := problem():
    print(f"error: {said}", file=sys.stderr)
    sys.exit(2)
