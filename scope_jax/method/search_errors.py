"""Why a turn did not search, as classes of error that metrics count (spec 4).

The reward counts valid searches (spec 9.1) and does not need them; they show why a
model finds nothing.
"""

from collections.abc import Sequence

from scope_jax.method import formats
from scope_jax.method.types import ToolFormat


def search_errors(turns: Sequence[str], tool_format: ToolFormat) -> list[str]:
    """Why turns that should have searched, all but the last, did not (spec 4)."""
    return [e for turn in turns[:-1] if (e := search_error(turn, tool_format))]


def search_error(text: str, tool_format: ToolFormat) -> str | None:
    """Why a turn's first call is not a valid search; None if it is one."""
    if formats.first_search(text, tool_format) is not None:
        return None
    tag = formats.SEARCH_TAG[tool_format]
    if f"<{tag}>" not in text:
        return "missing search tags"
    if tool_format == "function_calls_xml":
        found = any(formats.function_calls(text, "search", "query"))
        return "empty query" if found else "no valid search call"
    span = formats.first_pair(text, tag)
    if span is None:
        return "unclosed search tag"
    return "empty query" if tool_format == "search_r1" else _call_error(span.content)


def _call_error(content: str) -> str:
    """Why a JSON call is not a valid search."""
    value = formats.json_value(content)
    if value is None:
        return "malformed JSON"
    if not isinstance(value, dict):
        return "call is no object"
    if "name" not in value:
        return "missing name"
    if value["name"] != "search":
        return "wrong name"
    if "arguments" not in value:
        return "missing arguments"
    arguments = value["arguments"]
    if not isinstance(arguments, dict):
        return "arguments are no object"
    if "query_list" not in arguments:
        return "missing query_list"
    queries = arguments["query_list"]
    if not isinstance(queries, list):
        return "query_list is no list"
    return "empty query_list"
