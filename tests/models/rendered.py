"""What a template makes of a conversation, as text."""

from collections.abc import Sequence

from models.chat import ChatRenderer, Message


def rendered(
    renderer: ChatRenderer,
    messages: Sequence[Message],
    tools: Sequence[dict] | None = None,
    generate: bool = False,
) -> str:
    """The conversation, with the generation prompt where ``generate`` says so."""
    return renderer._unmasked(renderer._render_masked(messages, tools, generate))
