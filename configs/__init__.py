"""Configurations by name, one file each. May import ``scope_jax`` and all below it.

A file defines ``config() -> Config``. Its docstring gives the result to expect, the
hardware and the command; ``scripts/train.py --config NAME --help`` prints it. A file of
``variants/`` changes any configuration: ``qwen3_8b_paper`` is ``qwen3_8b`` with the
rewards of the paper. A file of your own is named by its path: ``--config my.py``.
"""

import importlib
import importlib.util
import inspect
import pkgutil
import traceback
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from configs import variants as _variants
from models.errors import UserError, first_line
from scope_jax.config import Config
from scope_jax.system.settings import closest


def names() -> list[str]:
    """All configurations, in alphabetical order, without their variants."""
    found = pkgutil.iter_modules(__path__)
    return sorted(module.name for module in found if not module.ispkg)


def variants() -> list[str]:
    """Suffixes that any configuration's name can have, after an underscore."""
    return sorted(module.name for module in pkgutil.iter_modules(_variants.__path__))


def load(name: str) -> Config:
    """The configuration called ``name``, or ``NAME_VARIANT``.

    Raises:
      UserError: no such configuration.
    """
    if _is_file(name):
        return _of_file(name)
    base, variant = _split(name)
    config = importlib.import_module(f"{__name__}.{base}").config()
    if variant:
        module = importlib.import_module(f"{_variants.__name__}.{variant}")
        config = replace(module.apply(config), name=name)
    return config


def describe(name: str) -> str:
    """The docstring of a configuration's file, after that of its variant.

    Raises:
      UserError: no such configuration.
    """
    if _is_file(name):
        return inspect.getdoc(_module(name)) or "a file without a docstring"
    base, variant = _split(name)
    modules = [f"{__name__}.{base}"]
    if variant:
        modules.insert(0, f"{_variants.__name__}.{variant}")
    texts = [inspect.getdoc(importlib.import_module(module)) for module in modules]
    return "\n\n".join(text or "" for text in texts)


def _is_file(name: str) -> bool:
    return name.endswith(".py")


def _of_file(name: str) -> Config:
    """The configuration that a file of the user's defines.

    Raises:
      UserError: there is no such file, or it makes no configuration.
    """
    made = getattr(_module(name), "config", None)
    if not callable(made):
        raise UserError(f"--config {name}: has no function config(): see {HOW}")
    try:
        config = made()
    except UserError as error:
        raise UserError(f"--config {name}: {error}") from error
    except Exception as error:
        raise UserError(f"--config {name}: config() {_said(error, name)}") from error
    if not isinstance(config, Config):
        kind = type(config).__name__
        raise UserError(
            f"--config {name}: config() gives a {kind}, no Config: see {HOW}"
        )
    return config


def _module(name: str) -> ModuleType:
    """The user's file as a module; run each time that it is asked for.

    Raises:
      UserError: it is missing, or can't be run.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        raise UserError(f"--config {name}: no such file: write one, {HOW}")
    spec = importlib.util.spec_from_file_location("configuration_of_user", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"--config {name}: {_said(error, name)}") from error
    return module


def _said(error: Exception, name: str) -> str:
    """What another exception says, with the line of the file that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f.lineno for f in frames if Path(f.filename).name == Path(name).name]
    line = getattr(error, "lineno", None) if not lines else lines[-1]
    return f"raised {type(error).__name__}: {first_line(error)} (line {line})"


HOW = "as scripts/init.py does (docs/configuration.md)"


def _split(name: str) -> tuple[str, str]:
    """The file and the variant that a name stands for; "" if it has no variant."""
    known = {base: (base, "") for base in names()}
    known |= {
        f"{base}_{variant}": (base, variant)
        for base in names()
        for variant in variants()
    }
    if name not in known:
        near = closest(name, list(known))
        remedy = f"did you mean {near}? " if near else ""
        behind = ", ".join(f"_{variant}" for variant in variants())
        raise UserError(
            f"--config {name}: no such configuration: {remedy}known: "
            f"{', '.join(names())}, each also with {behind}"
        )
    return known[name]
