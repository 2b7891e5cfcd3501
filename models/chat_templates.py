"""Chat templates: where their Jinja source comes from, and which day they are told."""

import datetime
from pathlib import Path
from typing import Any

from models.errors import UserError

TEMPLATES = Path(__file__).parent / "templates"
# The day that Llama-3.2's template prints where it can't ask for today's.
DATE = "2024-07-26"


def shows_day(template: str) -> bool:
    """Whether a template shows the day that it is told."""
    return "strftime_now" in template


def dated(template: str, date: str) -> str:
    """``template`` with a ``strftime_now`` of its own, which always says ``date``.

    That of transformers asks the clock, and functions can't be handed to a template:
    transformers replaces them by a text.
    """
    if not shows_day(template):
        return template
    day = datetime.date.fromisoformat(date)
    fields = {f"%{field}": day.strftime(f"%{field}") for field in "aAbBdHIjmMpSyY"}
    fields |= {"%-d": str(day.day), "%-m": str(day.month)}
    filled = "".join(f"|replace('{name}','{value}')" for name, value in fields.items())
    macro = f"{{% macro strftime_now(f) %}}{{{{ f{filled} }}}}{{% endmacro %}}"
    return macro + "{{ '' }}" + template  # else a line break behind would be dropped


def load_template(tokenizer: Any, template: str | None) -> str:
    """Returns the Jinja source; ``template`` is as in ``from_tokenizer``."""
    if template is None:
        own = tokenizer.chat_template
        if isinstance(own, dict):  # several, by name
            own = own.get("default")
        if isinstance(own, str):
            return own
        raise UserError(
            "chat template: the tokenizer has none of its own: name one, for example "
            f"{', '.join(_packaged())}"
        )
    if "{" in template:
        return template
    file = Path(template)
    if file.suffix != ".jinja":
        file = TEMPLATES / f"{template}.jinja"
    if not file.is_file():
        raise UserError(
            f"chat template {template!r}: not found: use one of "
            f"{', '.join(_packaged())}, or the path of a .jinja file"
        )
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        why = "not UTF-8: save it as UTF-8 text"
        raise UserError(f"chat template {file}: {why}") from error
    except OSError as error:
        why = f"cannot be read ({error.strerror}): make it readable"
        raise UserError(f"chat template {file}: {why}") from error


def _packaged() -> list[str]:
    return sorted(file.stem for file in TEMPLATES.glob("*.jinja"))
