"""Configurations by name: one file each, whose docstring says what to expect.

A file defines ``config() -> Config``. Its docstring states what comes out, on what
hardware, and the command; ``scripts/train.py --config NAME --help`` prints it.
"""

import importlib
import inspect
import pkgutil

from models.errors import UserError
from scope_jax.config import Config
from scope_jax.settings import closest


def names() -> list[str]:
    """All configurations, in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Config:
    """The configuration called ``name``.

    Raises:
      UserError: no such configuration.
    """
    return _module(name).config()


def describe(name: str) -> str:
    """The docstring of a configuration's file.

    Raises:
      UserError: no such configuration.
    """
    return inspect.getdoc(_module(name)) or ""


def _module(name: str):
    known = names()
    if name not in known:
        near = closest(name, known)
        remedy = f"did you mean {near}? " if near else ""
        raise UserError(
            f"--config {name}: no such configuration: {remedy}known: {', '.join(known)}"
        )
    return importlib.import_module(f"{__name__}.{name}")
