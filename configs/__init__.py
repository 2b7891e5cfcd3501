"""Configurations by name, one file each. May import ``scope_jax`` and all below it.

A file defines ``config() -> Config``. Its docstring gives the result to expect, the
hardware and the command; ``scripts/train.py --config NAME --help`` prints it. A file of
``variants/`` changes any configuration: ``qwen3_8b_paper`` is ``qwen3_8b`` with the
rewards of the paper.
"""

import importlib
import inspect
import pkgutil
from dataclasses import replace

from configs import variants as _variants
from models.errors import UserError
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
    base, variant = _split(name)
    modules = [f"{__name__}.{base}"]
    if variant:
        modules.insert(0, f"{_variants.__name__}.{variant}")
    texts = [inspect.getdoc(importlib.import_module(module)) for module in modules]
    return "\n\n".join(text or "" for text in texts)


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
