"""Settings as data: JSON there and back, dotted names, differences of two settings.

Works on any tree of dataclasses; knows nothing of what the settings mean.
"""

import dataclasses
import difflib
import functools
import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from models.control_tokens import encodable
from models.errors import UserError
from scope_jax.system.files import read_text, write_text

T = TypeVar("T")

MISSING = "name the folder of a run"
REMEDY = "restore the file, or start a new run folder"


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """Resolved type of each field of a dataclass, in order."""
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def leaves(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields (dotted name, type, value) of every field that is no dataclass itself."""
    for name, hint in field_types(type(settings)).items():
        value = getattr(settings, name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, hint, value


def differences(old: T, new: T, *, ignore: tuple[str, ...] = ()) -> list[str]:
    """One `field: old -> new` line per field in which two settings differ.

    Args:
      ignore: fields, or sections whose fields may differ, such as ``("tracking",)``.
    """
    ignored = tuple(f"{part}." for part in ignore)
    return [
        f"{name}: {json.dumps(a, default=str)} -> {json.dumps(b, default=str)}"
        for (name, _, a), (_, _, b) in zip(leaves(old), leaves(new), strict=True)
        if a != b and not f"{name}.".startswith(ignored)
    ]


def closest(name: str, known: list[str]) -> str:
    """The known name most like ``name``, else the empty string."""
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return match[0] if match else ""


def to_json(settings: Any) -> str:
    """The settings as indented JSON, fields in the order of their declaration."""
    values = dataclasses.asdict(settings)
    return json.dumps(values, indent=2, ensure_ascii=False, default=str) + "\n"


def from_json(cls: type[T], text: str, *, source: str = "settings") -> T:
    """Settings from the text that `to_json` wrote.

    Raises:
      UserError: text that is no JSON, an unknown field, or a value of a wrong type.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source}: not JSON ({error}): {REMEDY}") from error
    return _build(cls, value, source)


def _build(hint: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return _build_dataclass(hint, value, where)
    if origin in (Union, types.UnionType):
        for option in args:
            if option is type(None):
                if value is None:
                    return None
                continue
            try:
                return _build(option, value, where)
            except UserError:
                continue
    elif origin is Literal:
        if value in args:
            return value
    elif origin is tuple and isinstance(value, list):
        if args[-1] is Ellipsis:
            return tuple(_build(args[0], v, where) for v in value)
        if len(args) == len(value):
            pairs = zip(args, value, strict=True)
            return tuple(_build(a, v, where) for a, v in pairs)
    elif origin is dict and isinstance(value, dict):
        return {k: _build(args[1], v, where) for k, v in value.items()}
    elif hint is float and type(value) in (int, float):
        return float(value)
    elif hint is Path and isinstance(value, str):
        return Path(value)
    elif hint in (int, str, bool) and type(value) is hint:
        if hint is str and encodable(value) != value:
            why = "half a surrogate pair, which no file or request can hold"
            raise UserError(f"{where}: {encodable(value)!r}: {why}: correct the value")
        return value
    name = getattr(hint, "__name__", str(hint))
    raise UserError(f"{where}: {value!r} is not of type {name}: correct the value")


def _build_dataclass(cls: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise UserError(f"{where}: {value!r} is not a section: correct the value")
    hints = field_types(cls)
    for name in value:
        if name not in hints:
            near = closest(name, list(hints))
            remedy = f"did you mean {near}?" if near else "remove it"
            raise UserError(f"{where}.{name}: no such field: {remedy}")
    built = {k: _build(hints[k], v, f"{where}.{k}") for k, v in value.items()}
    try:
        return cls(**built)
    except TypeError as error:
        raise UserError(f"{where}: {error}: add the missing field") from error
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def save(settings: Any, path: Path, *, recorded: bool = False) -> None:
    """Writes the settings as JSON; see ``files.write_text``."""
    write_text(path, to_json(settings), recorded=recorded)


def load(cls: type[T], path: Path) -> T:
    """Settings from a file written by `save`.

    Raises:
      UserError: see `from_json` and ``files.read_text``.
    """
    return from_json(cls, read_text(path, REMEDY, MISSING), source=str(path))
