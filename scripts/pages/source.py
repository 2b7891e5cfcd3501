"""The source files as data: lines of code, functions, and what imports what.

A room is a folder of modules; files of ``rl`` and ``scope_jax`` beside such folders are
rooms by themselves. A room stands on the floor above all that it imports.
"""

import ast
import io
import tokenize
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from models.errors import UserError

INSTALLED = ("models", "rl", "retrieval", "scope_jax", "configs")
"""Packages: what a run needs."""
LAYOUT = ("COMMENT", "NL", "NEWLINE", "INDENT", "DEDENT", "ENDMARKER")
LONG_FILE, LONG_FUNCTION = 350, 60
"""Lines above which a file is two files, code lines above which a function is two."""


@dataclass(frozen=True)
class File:
    """A source file.

    Attributes:
      path: from the root of the repository.
      tree: its syntax.
      height: all its lines.
      lines: numbers of those with code, which are no blank, comment or docstring lines.
    """

    path: str
    tree: ast.Module
    height: int
    lines: frozenset[int]

    @property
    def room(self) -> str:
        """Its folder, at most two deep; beside folders of rl or scope_jax, itself."""
        *folders, _ = self.path.split("/")
        if folders in (["rl"], ["scope_jax"]):
            return self.path
        return "/".join(folders[: 1 if folders[0] == "configs" else 2])

    def functions(self) -> Iterator[tuple[str, int]]:
        """(name, lines of code) of every function, nested ones included."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                span = range(node.lineno, node.end_lineno + 1)
                yield node.name, len(self.lines.intersection(span))


def read(root: Path) -> dict[str, File]:
    """Every source file of the packages and of scripts/, by its name in imports."""
    found = {}
    for top in (*INSTALLED, "scripts"):
        for file in sorted((root / top).rglob("*.py")):
            path, text = file.relative_to(root).as_posix(), file.read_text("utf-8")
            # Folders of scripts/ are imported by their own names.
            name = path.removeprefix("scripts/").removesuffix(".py").replace("/", ".")
            tree = ast.parse(text)
            lines = _code_lines(text, tree)
            height = text.count("\n")
            found[name.removesuffix(".__init__")] = File(path, tree, height, lines)
    return found


def _code_lines(text: str, tree: ast.Module) -> frozenset[int]:
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if tokenize.tok_name[token.type] not in LAYOUT:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    return frozenset(lines)


def imports(files: Mapping[str, File]) -> dict[str, set[str]]:
    """Name of each file -> names of the files that it imports."""
    found = {}
    for name, file in files.items():
        wanted = set()
        for node in ast.walk(file.tree):
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                inside = {f"{node.module}.{alias.name}" for alias in node.names}
                wanted |= {x if x in files else node.module for x in inside}
        found[name] = wanted & files.keys() - {name}
    return found


def between_rooms(files: Mapping[str, File]) -> dict[str, set[str]]:
    """Each room -> rooms that it imports."""
    room = {name: file.room for name, file in files.items() if file.lines}
    found: dict[str, set[str]] = {name: set() for name in room.values()}
    for name, wanted in imports(files).items():
        if name in room:
            found[room[name]] |= {room[n] for n in wanted & room.keys()} - {room[name]}
    return found


def floors(below: Mapping[str, set[str]]) -> dict[str, int]:
    """How high each name stands: above all that it imports.

    Raises:
      UserError: for names that import one another in a circle.
    """
    height: dict[str, int] = {}
    try:
        for name in TopologicalSorter(below).static_order():
            height[name] = 1 + max((height[other] for other in below[name]), default=-1)
    except CycleError as error:
        circle = ", ".join(error.args[1])
        raise UserError(f"{circle}: import one another in a circle: cut it") from error
    return height


def direct(below: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """The imports that no longer way down implies."""

    def under(name: str) -> set[str]:
        return below[name].union(*map(under, below[name]))

    return [
        (name, to)
        for name, wanted in sorted(below.items())
        for to in sorted(wanted.difference(*map(under, wanted)))
    ]


def count(files: Mapping[str, File]) -> str:
    """Lines of code of each room and of all, and what is longer than it should be."""
    rooms: Counter[str] = Counter()
    for file in files.values():
        rooms[file.room] += len(file.lines)
    rows = [(lines, room) for room, lines in rooms.items() if lines]
    needed = sum(lines for lines, room in rows if room.split("/")[0] in INSTALLED)
    rows += [(needed, "what a run needs"), (rooms.total(), "with scripts")]
    for file in files.values():
        if file.height > LONG_FILE:
            rows.append((file.height, f"{file.path}: all lines of a long file"))
        rows += [
            (lines, f"{file.path}: {name}: a long function")
            for name, lines in file.functions()
            if lines > LONG_FUNCTION
        ]
    return "\n".join(f"{lines:6,} {what}" for lines, what in rows)
