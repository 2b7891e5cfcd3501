"""Where the generation of a turn stops, and stop tags that are put back (spec 3.1).

Stop strings end a turn and stay in its text. The reference's servers drop them, and it
puts back whatever seems to be missing; what that changes is rule 3.9.1 and 3.9.3.
"""

from scope_jax.method.compat import OFF, Compat
from scope_jax.method.formats import SEARCH_TAG, strip_thinking
from scope_jax.method.types import ToolFormat


def stop_strings(
    kind: str,
    tool_format: ToolFormat,
    *,
    forced: bool = False,
    compat: Compat = OFF,
) -> tuple[str, ...]:
    """Strings that end the generation of a turn and stay in its text (spec 3.1).

    They are where the rules cut a turn (spec 3.7), so that nothing is sampled only to
    be dropped, with two exceptions: a Solver's turn in ``tool_call`` may hold several
    calls, so the first does not end it, and a stray ``</task>`` in a Solver's turn may
    still be followed by an answer.

    Args:
      kind: of the conversation, see ``scope_jax.method.conversation``.
      tool_format: how searches are written.
      forced: it is a forced answer: no search is run, so a call does not end the turn.
      compat: ``unguided_tool_calls`` leaves its conversations without stop strings.
    """
    call = f"</{SEARCH_TAG[tool_format]}>"
    if kind in ("challenger", "task"):
        unguided = kind == "task" and tool_format == "tool_call"
        if unguided and compat.unguided_tool_calls:
            return ()
        if kind == "challenger" and tool_format == "search_r1":
            return (call, "</task>", "</answer>")
        return (call, "</task>")
    if tool_format == "tool_call" or (forced and tool_format == "search_r1"):
        return ("</answer>",)
    return (call, "</answer>")


def close_tags(
    text: str, kind: str, tool_format: ToolFormat, *, compat: Compat = OFF
) -> str:
    """A turn's text with the stop tags that the reference puts back.

    Difficulty rollouts close what is open outside thinking, however the turn ended: an
    answer that was cut by its limit is graded as it is (spec 3.9.3). Policy rollouts do
    so under ``close_opened_tags`` only, and then thinking is read too (spec 3.9.1).
    Task creation never does (spec Q15).

    Args:
      text: of the turn.
      kind: of the conversation.
      tool_format: how searches are written.
      compat: the switch.
    """
    if kind == "difficulty":
        read = strip_thinking(text)
    elif kind != "task" and compat.close_opened_tags:
        read = text
    else:
        return text
    missing = (
        f"</{tag}>"
        for tag in _reference_tags(kind, tool_format)
        if f"<{tag}>" in read and f"</{tag}>" not in read
    )
    return text + "".join(missing)


def _reference_tags(kind: str, tool_format: ToolFormat) -> tuple[str, ...]:
    """The tags that the reference's stop strings close, in its order (spec 3.1)."""
    call = SEARCH_TAG[tool_format]
    if kind == "challenger":
        return (call, "task")
    return (call, "answer") if tool_format == "function_calls_xml" else ("answer",)
