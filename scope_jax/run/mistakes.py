"""What a command line's mistakes are called: one line each, as the user wrote it."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from models.errors import UserError


def condense(box: str, argv: list[str]) -> str:
    """One line out of tyro's message: the first paragraph of its box."""
    # Boxes are drawn with lines, or, where stderr is ASCII, with dashes and a title of
    # its own paragraph.
    paragraphs: list[list[str]] = [[]]
    for line in box.splitlines():
        text = line.strip(" │")
        if text and not text.strip("─-╰╯"):
            paragraphs.append([])
        elif text and not text.startswith("╭"):
            paragraphs[-1].append(text)
    titled = "╭" not in box
    said = next((" ".join(lines) for lines in paragraphs[titled:] if lines), "")
    stray = said.removeprefix("Unrecognized options: ")
    if stray != said:
        return f"{stray}: does not belong to a field: write --field value"
    found = re.match(r"Error parsing (?:config|options)\.?([\w.\-]*): (.*)", said)
    if found:
        return refused(found[1].replace("-", "_"), found[2], argv)
    named = re.search(r"--([a-z][\w.\-]*\w)", said)
    flag = "--" + named.group(1).replace("-", "_") if named else ""
    given = argv[argv.index(flag) + 1 :] if flag in argv else []
    value = f" {given[0]}" if given and not given[0].startswith("--") else ""
    reason = re.sub(r"^Error parsing --[\w.\-]+: | for argument '--[\w.\-]+'", "", said)
    reason = reason.rstrip(".") or "cannot be read"
    return f"{flag}{value}: {reason}: see the field in --help-all"


def refused(section: str, reason: str, argv: list[str]) -> str:
    """What a section's settings say of themselves, with the options that it is about.

    ``reason`` starts with the field and its value, as the section knows them.
    """
    prefix = f"{section}." if section else ""
    inside = {k: v for k, v in options_of(argv).items() if k.startswith(prefix)}
    about, _, why = reason.partition(": ")
    field = re.match(r"[\w.]*", about)[0]
    own = f"{prefix}{field}"  # of --run and --preference.run the first is `run`
    for name, option in sorted(inside.items(), key=lambda item: item[0] != own):
        if why and f".{name}".endswith(f".{field}"):
            return f"{option}: {why}"
    options = ", ".join(inside.values()) or section
    return f"{options}: {reason}" if options else reason


def as_given(said: str, argv: Sequence[str]) -> str:
    """An error that starts with ``field=value``, with the option that set the field."""
    field, equals, _ = said.partition("=")
    option, (_, _, why) = options_of(argv).get(field), said.partition(": ")
    if not (equals and option and why):
        return said
    return f"{' '.join(option.splitlines())}: {why}"


def options_of(argv: Sequence[str]) -> dict[str, str]:
    """Field -> the option that sets it, in one spelling."""
    given: dict[str, str] = {}
    last = ""
    for token in argv:
        if token.startswith("--"):
            last, equals, value = token[2:].partition("=")
            last = last.replace("-", "_")
            given[last] = f"--{last} {value}" if equals else f"--{last}"
        elif last:
            given[last] += f" {token}"
    return given


def check_folder(option: str, path: Path) -> None:
    """Refuses a name that no folder can have, before any work is done for it.

    Args:
      option: that gives it, as a person writes it.

    Raises:
      UserError: a file has it, or the name of a folder above.
    """
    _check_places(option, path, (path, *path.parents))


def check_file(option: str, path: Path) -> None:
    """As ``check_folder``, of a name that no file can have.

    Raises:
      UserError: a folder has it, or a file has the name of a folder above.
    """
    if path.is_dir():
        raise UserError(f"{option} {path}: is a folder: name a file")
    _check_places(option, path, path.parents)


def _check_places(option: str, path: Path, places: Iterable[Path]) -> None:
    """The first of ``places`` that is there must be a folder."""
    there = next((place for place in places if place.exists()), None)
    if there is None or there.is_dir():
        return
    what = "is a file" if there == path else f"{there} is a file"
    raise UserError(f"{option} {path}: {what}: name another place")
