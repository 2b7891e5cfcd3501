"""The table of text forms in docs/your-text.md, from their declarations."""

from retrieval.forms import FORMS

BEGIN, END = "<!-- forms: written by scripts/docs.py -->", "<!-- end of forms -->"
HEAD = (
    "| form | files | rows | a bad row is named by | is searched |",
    "| --- | --- | --- | --- | --- |",
)


def page(text: str) -> str:
    """The page with its table as it must be; all else stays."""
    before, rest = text.split(BEGIN)
    _, behind = rest.split(END)
    rows = [
        f"| {form.name} | {form.files} | {form.row} | {form.place} | "
        f"{'in a store' if form.copied else 'where it lies'} |"
        for form in FORMS
    ]
    return "\n".join([before + BEGIN, *HEAD, *rows, END + behind])
