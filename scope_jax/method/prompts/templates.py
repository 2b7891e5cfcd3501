"""One prompt: a text with ``{slot}`` names, checked when read, escaped when filled.

Slots are filled in one pass by plain replacement, so a ``{slot}`` inside a filled text
stays text.

Documents, tasks, answers and rubrics can contain anything, but they cannot close the
block that a prompt puts around them, and a judge that quotes them cannot quote a forged
verdict: the ``<`` of such tags becomes ``&lt;`` (``neutralise``). Where the parts of a
judge's prompt are set apart by the first words of a line instead of tags (the small
world's one-liners), a line that begins like that gets a backslash. Other text passes
unchanged.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from models.errors import UserError
from models.mixed_text import Mixed, mixed, outside

# Slots for the program's own words and numbers; what fills the others comes from
# outside: documents, passages, and what models wrote.
_OWN_SLOTS = frozenset(
    {
        *("task_type", "task_description", "num_search_turns", "max_search_turns"),
        *("budget_instructions", "remaining", "target"),
    }
)
# Tags that the judge's parsers look for; text quoted from a slot must not hold them.
_VERDICT_TAGS = ("think", "score", "scores", "rubrics", "rubric")
_SLOT = re.compile(r"\{([a-z_]+)\}")
_LIKE_A_SLOT = re.compile(r"\{\s*\w+\s*\}")
_TAG = re.compile(r"<(/?)([a-z_]+)>")


def neutralise(text: str, tags: Iterable[str]) -> str:
    """``text`` with the ``<`` of every opening or closing tag in ``tags`` escaped."""
    names = "|".join(re.escape(tag) for tag in tags)
    if not names or "<" not in text:
        return text
    return re.sub(
        rf"<(?=[\s/]*+(?:{names})(?![a-z0-9_]))", "&lt;", text, flags=re.IGNORECASE
    )


def _unfence(text: str, fences: Iterable[str]) -> str:
    """``text`` with a backslash before each line that begins with one of ``fences``."""
    names = "|".join(map(re.escape, fences))
    return re.sub(rf"(?m)^(?=[ \t]*+(?:{names}))", r"\\", text) if names else text


@dataclass(frozen=True)
class Template:
    """One prompt.

    Attributes:
      text: the prompt with its slots.
      guarded: tags that are escaped in a slot's value.
      fences: first words of a line that are escaped in a slot's value.
    """

    text: str
    guarded: tuple[str, ...]
    fences: tuple[str, ...] = ()

    def fill(self, **slots: object) -> Mixed:
        """The prompt with every slot replaced, once, by its (escaped) value.

        It knows which parts come from outside, see ``models.mixed_text``.
        """
        parts: list[str] = []
        # The names of the slots are at the odd places.
        for index, part in enumerate(_SLOT.split(self.text)):
            if index % 2:
                value = neutralise(str(slots[part]), self.guarded)
                value = _unfence(value, self.fences)
                part = value if part in _OWN_SLOTS else outside(value)
            parts.append(part)
        return mixed(*parts)


def read_text(path: Path) -> str:
    """The text of a file of a prompt set.

    Raises:
      UserError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8: save it as UTF-8 text") from error
    except OSError as error:
        why = f"cannot be read ({error.strerror})"
        raise UserError(f"{path}: {why}: make it readable") from error


def read_template(
    path: Path,
    required: tuple[str, ...],
    optional: tuple[str, ...],
    *,
    verdict: bool,
) -> Template:
    """Reads a prompt and finds what its slots' values must not contain.

    Args:
      path: of the text file.
      required: slots that must occur.
      optional: slots that may occur.
      verdict: the judge answers this prompt with a verdict, which must not be forged.

    Raises:
      UserError: no such file, an empty one, an unknown or missing slot.
    """
    if not path.is_file():
        raise UserError(f"{path}: missing: a prompt set needs this file")
    text = read_text(path).strip()
    if not text:
        raise UserError(f"{path}: empty: write the prompt into it")
    allowed = (*required, *optional)
    for slot in _LIKE_A_SLOT.findall(text):
        if slot not in {f"{{{name}}}" for name in allowed}:
            known = ", ".join(f"{{{name}}}" for name in allowed) or "none"
            raise UserError(f"{path}: unknown slot {slot}: use one of: {known}")
    found = {match[1]: match.start() for match in reversed([*_SLOT.finditer(text)])}
    for slot in required:
        if slot not in found:
            raise UserError(f"{path}: slot {{{slot}}} is missing: add it")
    blocks = {tag for start in found.values() for tag in _enclosing_tags(text, start)}
    guarded = tuple(sorted({*blocks, *(_VERDICT_TAGS if verdict else ())}))
    begins = {line.partition("{")[0].strip() for line in text.splitlines()} - {""}
    fences = tuple(sorted(begins)) if verdict and not blocks else ()
    return Template(text, guarded, fences)


def _enclosing_tags(text: str, position: int) -> list[str]:
    """Names of the tags that are open at ``position`` and closed after it."""
    opened: list[str] = []
    for match in _TAG.finditer(text, 0, position):
        if not match[1]:
            opened.append(match[2])
        elif match[2] in opened:
            del opened[opened.index(match[2]) :]
    return [name for name in opened if f"</{name}>" in text[position:]]
