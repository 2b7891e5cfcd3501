"""Checks that Python finds this project's packages; every script imports it first.

Their names are common ones: another package of the same name would be imported instead,
and what it lacks would end the script in the middle.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("models", "rl", "retrieval", "configs")


def place_of(package: str) -> Path | None:
    """The folder that a package would be imported from, or the file; None: nowhere."""
    spec = find_spec(package)
    if spec is None:
        return None
    return Path(next(iter(spec.submodule_search_locations or [spec.origin]))).resolve()


def problem() -> str:
    """What is wrong and what to do about it, in one line; empty if nothing is."""
    ours = place_of("scope_jax")
    for name in ("scope_jax", *PACKAGES):
        found = place_of(name)
        if ours is None or found is None:
            return f"{name}: not installed for {sys.executable}: pip install -e {ROOT}"
        if found != ours.parent / name:
            return (
                f"{name}: Python finds {found} before {ours.parent / name}: remove "
                f"{found.parent} from PYTHONPATH, or use a fresh virtual environment"
            )
    return ""


if said := problem():
    print(f"error: {said}", file=sys.stderr)
    sys.exit(2)
