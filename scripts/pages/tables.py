"""Tables inside of pages that people write: text forms, slots of prompts."""

from collections.abc import Sequence

from retrieval.forms import FORMS
from scope_jax.method.prompts import SLOTS


def text_forms(page: str) -> str:
    """docs/your-text.md with its table of forms as it must be."""
    rows = [
        (
            form.name,
            form.files,
            form.row,
            form.place,
            "in a store" if form.copied else "where it lies",
        )
        for form in FORMS
    ]
    head = ("form", "files", "rows", "a bad row is named by", "is searched")
    return _with_table(page, "forms", head, rows)


def prompt_slots(page: str) -> str:
    """docs/your-reward.md with its table of prompts as it must be."""
    rows = [
        (
            f"`{stem.replace('{format}', 'FORMAT')}.txt`",
            ", ".join(f"`{{{slot}}}`" for slot in required),
            ", ".join(f"`{{{slot}}}`" for slot in optional),
        )
        for stem, (required, optional) in SLOTS.items()
    ]
    return _with_table(page, "slots", ("file", "must have", "may have"), rows)


def _with_table(
    page: str, name: str, head: Sequence[str], rows: Sequence[Sequence[str]]
) -> str:
    """A page with the table between two remarks in its place; all else stays."""
    begin = f"<!-- {name}: written by scripts/docs.py -->"
    end = f"<!-- end of {name} -->"
    before, rest = page.split(begin)
    _, behind = rest.split(end)
    lines = [" | ".join(row) for row in (head, ["---"] * len(head), *rows)]
    table = (f"| {line} |" for line in lines)
    return "\n".join([before + begin, *table, end + behind])
