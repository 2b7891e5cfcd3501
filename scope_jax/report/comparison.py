"""One task answered by two Solvers, side by side: terminal and Markdown."""

from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from scope_jax.run.printable import printable


@dataclass(frozen=True, kw_only=True)
class Side:
    """What one Solver made of the task."""

    name: str
    messages: tuple[dict[str, Any], ...]
    answer: str
    true_score: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A task, and what is made of it before and after.

    Attributes:
      rule: how the task was chosen.
      task: its text.
      wanted: the facts that it wants, as sentences.
      before, after: the two Solvers.
    """

    rule: str
    task: str
    wanted: tuple[str, ...]
    before: Side
    after: Side

    @property
    def sides(self) -> tuple[Side, Side]:
        """Before, after."""
        return self.before, self.after


def heading(side: Side) -> str:
    """Whose answer it is, and what it is worth."""
    return f"{side.name}: true score {side.true_score:.2f}"


def comparison_table(shown: Comparison) -> Table:
    """For a terminal: a column each."""
    table = Table(
        title=Text(printable(f"{shown.rule}\n{shown.task}")),
        title_justify="left",
        caption=Text(printable(f"Wanted: {' '.join(shown.wanted)}")),
        caption_justify="left",
        show_lines=True,
    )
    cells = []
    for side in shown.sides:
        table.add_column(heading(side), ratio=1)
        text = Text()
        for role, content in _said(side):
            text.append(f"{role}\n", style="bold")
            text.append(printable(f"{content}\n\n"))
        cells.append(text)
    table.add_row(*cells)
    answers = [printable(side.answer) or "(none)" for side in shown.sides]
    table.add_row(*(Text(f"answer: {answer}") for answer in answers))
    return table


def comparison_markdown(shown: Comparison) -> str:
    """As a file to read, one after the other."""
    parts = [
        "# One task, before and after",
        f"{shown.rule}.",
        f"> {shown.task}",
        "Wanted:",
        "\n".join(f"- {fact}" for fact in shown.wanted),
    ]
    for side in shown.sides:
        parts += [f"## {heading(side)}", f"Answer: {side.answer or '(none)'}"]
        for role, content in _said(side):
            quoted = "\n".join(f"    {line}" for line in content.split("\n"))
            parts += [f"**{role}**", quoted]
    return "\n\n".join(parts) + "\n"


def _said(side: Side) -> list[tuple[str, str]]:
    """(role, text) of the conversation behind the prompt, which both have in common."""
    return [(m["role"], str(m.get("content") or "")) for m in side.messages[1:]]
