"""What ``--help`` says: the options and the settings that people change.

``--help-all`` lists every setting. The text of a setting is the string below its field.
"""

import ast
import dataclasses
import functools
import inspect
import re
import textwrap
from typing import Any

from scope_jax.system.settings import leaves

USUAL = (
    "model.path",
    "retrieval.passages",
    "retrieval.encoder",
    "retrieval.ranking",
    "retrieval.top_k",
    "iterations",
    "seed",
    "tool_format",
    "prompts",
    "tools",
    "solver.reward",
    "tasks.target",
    "challenger_train.steps",
    "solver_train.steps",
    "solver_train.prompts_per_step",
    "solver_train.group_size",
    "solver_train.optimizer.learning_rate",
    "solver_train.sampling.max_new_tokens",
    "engine.slots",
    "inference.judge_url",
)
"""The twenty settings that people change first."""
WIDTH = 88


def text(options: Any, settings: Any) -> str:
    """The options of a command, then the usual settings, each with its value."""
    parts = ["options:", *(_entry(options, name) for name, *_ in leaves(options))]
    parts += ["", "settings that people change, with their values here:"]
    parts += [_entry(settings, name) for name in USUAL]
    count = len([*leaves(settings)])
    parts += ["", f"--help-all lists all {count} settings."]
    return "\n".join(parts)


def _entry(settings: Any, name: str) -> str:
    """One field, its value, and what is said of it."""
    *sections, field = name.split(".")
    owner = functools.reduce(getattr, sections, settings)
    value = getattr(owner, field)
    shown = "" if value in ("", None, ()) else f" {value}"
    said = textwrap.fill(
        field_texts(type(owner))[field],
        WIDTH,
        initial_indent="      ",
        subsequent_indent="      ",
    )
    return f"  --{name}{shown}\n{said}"


@functools.cache
def field_texts(cls: type) -> dict[str, str]:
    """Field -> its text, on one line, of a dataclass and its bases.

    That is the string below the field, or what the class's docstring has in a list of
    attributes.
    """
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        _, _, listed = (inspect.getdoc(base) or "").partition("\nAttributes:\n")
        _, *pairs = re.split(r"(?m)^  (\w+): ", listed.partition("\n\n")[0])
        texts = (" ".join(said.split()) for said in pairs[1::2])
        found |= dict(zip(pairs[::2], texts, strict=True))
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(definition, ast.ClassDef)
        lines = zip(definition.body, definition.body[1:], strict=False)
        for line, below in lines:
            if not isinstance(line, ast.AnnAssign):
                continue
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                assert isinstance(line.target, ast.Name)
                found[line.target.id] = " ".join(str(below.value.value).split())
    return found
