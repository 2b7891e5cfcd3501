"""The page that sets our constants beside the reference's and the paper's.

Ours are read from the configurations; the reference's, its quirks and our reasons are
in ``docs/method.toml``. A constant that differs without a reason is an error, and so is
a reason where nothing differs, so the page cannot be out of date.
"""

import tomllib
from collections.abc import Mapping
from typing import Any

from models.errors import UserError
from scope_jax.config import Config
from scope_jax.method.compat import Compat
from scope_jax.system.settings import leaves

INTRODUCTION = """# The method's constants

Written by `python scripts/docs.py` from the configurations and `docs/method.toml`; a
test fails when it is out of date. The method itself: [spec.md](spec.md).

*Ours* are the values of the three families' configurations, *reference* those of the
published code, *paper* those of the paper where they differ: `--config qwen3_8b_paper`
(and `_paper` after any other name) runs with them. Where no setting is named, the value
is part of the code."""

WE = {
    "keep": "kept",
    "fix": "fixed",
    "switch": "switch",
    "own": "built differently",
    "out": "left out",
}


def page(data: str, families: Mapping[str, Config], paper: Config) -> str:
    """The page as Markdown.

    Args:
      data: text of ``docs/method.toml``.
      families: name -> configuration; the first is the default.
      paper: a configuration of the variant ``paper``.

    Raises:
      UserError: no TOML, a row that lacks something, a value that differs without a
        reason, a reason without a difference, a paper's value that the variant does
        not have, a switch without a row.
    """
    try:
        return _page(tomllib.loads(data), families, paper)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"docs/method.toml: not TOML: {error}: correct it") from error
    except KeyError as error:
        why = f"a section or row lacks {error}"
        raise UserError(f"docs/method.toml: {why}: add it") from error


def _page(
    content: Mapping[str, Any], families: Mapping[str, Config], paper: Config
) -> str:
    lines = [INTRODUCTION]
    for section in content["section"]:
        lines.append(f"\n## {section['title']}\n")
        lines.append("| constant | setting | ours | reference | paper |")
        lines.append("| --- | --- | --- | --- | --- |")
        lines += [_row(row, families, paper) for row in section["constants"]]
    reasons = [
        (row["what"], row["why"])
        for section in content["section"]
        for row in section["constants"]
        if "why" in row
    ]
    lines += ["\nWhere they differ:\n", *(f"- {what}: {why}." for what, why in reasons)]
    lines += ["\n## Quirks of the reference\n", *_quirks(content["quirk"])]
    lines.append("\n## What else differs on purpose\n")
    lines += [f"- {row['what']} Why: {row['why']}." for row in content["difference"]]
    return "\n".join(lines) + "\n"


def _row(row: Mapping[str, Any], families: Mapping[str, Config], paper: Config) -> str:
    field = row.get("field", row["what"])
    if "ours" in row:
        ours = dict.fromkeys(families, _plain(row["ours"]))
    else:
        ours = {name: _value(config, field) for name, config in families.items()}
    theirs = row["reference"]
    if not isinstance(theirs, dict):
        theirs = dict.fromkeys(families, theirs)
    theirs = {name: _plain(theirs[name]) for name in families}
    if (ours != theirs) != ("why" in row):
        raise UserError(
            f"{field}: ours is {_shown(ours)}, the reference's {_shown(theirs)}: give "
            "`why` in docs/method.toml if they differ, and only then"
        )
    if "paper" in row and _plain(row["paper"]) != _value(paper, field):
        raise UserError(
            f"{field}: {paper.name} has {_value(paper, field)}, the paper "
            f"{row['paper']}: correct configs/variants/paper.py or docs/method.toml"
        )
    setting = "" if "ours" in row else f"`{field}`"
    cells = [row["what"], setting, _shown(ours), _shown(theirs)]
    cells.append(_plain(row["paper"]) if "paper" in row else "")
    return f"| {' | '.join(cells)} |"


def _value(config: Config, field: str) -> str:
    values = {name: value for name, _, value in leaves(config)}
    if field not in values:
        raise UserError(f"{field}: no such setting: correct docs/method.toml")
    return _plain(values[field])


def _plain(value: Any) -> str:
    """A value as the page shows it, the same from Python and from TOML."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _shown(values: Mapping[str, str]) -> str:
    """The first family's value, and those of families where it differs."""
    first, *others = values.items()
    different = [f"{value} ({name})" for name, value in others if value != first[1]]
    return "; ".join([first[1], *different])


def _quirks(quirks: list[dict[str, Any]]) -> list[str]:
    switches = {name for name, _, _ in leaves(Compat())}
    named = {row["compat"] for row in quirks if "compat" in row}
    if switches != named:
        raise UserError(
            f"compat: {', '.join(sorted(switches ^ named))}: give each switch one row "
            "in docs/method.toml"
        )
    lines = ["| | the reference | here | why |", "| --- | --- | --- | --- |"]
    for row in sorted(quirks, key=lambda row: row["n"]):
        here = WE[row["we"]]
        if "compat" in row:
            here += f" `compat.{row['compat']}`"
        lines.append(f"| Q{row['n']} | {row['what']} | {here} | {row['why']} |")
    return lines
