"""Conversations to token ids, through any Hugging Face chat template.

The text between control tokens is encoded piece by piece (``control_tokens`` says why).
Where the content has no control string, the ids equal those of
``tokenizer.apply_chat_template``; a tokenizer for which that isn't so is refused.
"""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.control_tokens import ControlTokens
from models.errors import UserError, first_line

Message = dict[str, Any]

TEMPLATES = Path(__file__).parent / "templates"
# Tokens other than a family's end of turn that end a text or a message.
ENDS = ("<|endoftext|>", "<|end_of_text|>", "<|eom_id|>")
PROBE_REPLIES = ("plain words", "<think>\nsome thought\n</think>\n\nplain words")
# With all that a tokenizer may treat in a way of its own at the ends of a piece: spaces
# and line breaks at both ends of content, digits, letters of several bytes.
PROBE_TURNS = (
    " Wie weit,\u00fcber  12.5 km?\n\n  \u6f22\u5b57 ",
    "Plain words.\n\n- one\n",
    "\nmore ",
)
# The day that Llama-3.2's template prints where it can't ask for today's.
DATE = "2024-07-26"


class ChatRenderer:
    """Renders conversations as text and as ids; thread-safe and free of side effects.

    Messages are dictionaries with ``role`` (system, user, assistant, tool) and
    ``content``; an assistant's may have ``tool_calls``, a list of
    ``{"name": str, "arguments": dict}``, and ``reasoning_content``.

    Attributes:
      append_only: whether a conversation's ids only grow at the end, so that sampled
        ids can be kept and continued. False if the template rewrites history (Qwen3
        drops earlier thinking): then the conversation is rendered again for every turn.
      stop_ids: ids that end an assistant's turn: first the template's end of turn, then
        the tokenizer's end of sequence and end of text.
      opening: the start of the assistant's turn if the template writes it into the
        prompt (``<think>`` and a line break: Qwen3-Thinking, R1), else empty. A sampled
        turn continues it, and only both together are the turn's text.
    """

    @classmethod
    def from_tokenizer(
        cls, tokenizer: Any, *, template: str | None = None, date: str = DATE
    ) -> "ChatRenderer":
        """Builds the renderer of a ``PreTrainedTokenizerFast``.

        Args:
          tokenizer: a fast tokenizer.
          template: the name of a packaged template (``qwen3_strip_thinking``), a path
            that ends in ``.jinja``, Jinja source, or None for the tokenizer's own.
          date: what a template that prints today's date is told, as YYYY-MM-DD. The
            clock never enters a prompt: the same conversation has the same ids.

        Raises:
          UserError: if there is no template, or it can't be used with this tokenizer.
        """
        return cls(tokenizer, load_template(tokenizer, template), date)

    def __init__(self, tokenizer: Any, template: str, date: str = DATE):
        self.template = template
        self._tokenizer = tokenizer
        self._dated = _dated(template, date)
        self._text = ControlTokens(tokenizer)
        self._turn_end = self._find_turn_end()
        first = self._text.find(self._turn_end)
        ends = [self._text.ids[first[0]]] if first else []
        if tokenizer.eos_token_id is not None:
            ends.append(tokenizer.eos_token_id)
        ends += [self._text.ids[text] for text in ENDS if text in self._text.ids]
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys(ends))
        self.opening: str = self._find_opening()
        self._check_pieces()
        self.append_only: bool = self._probe_append_only()

    def prompt_ids(
        self, messages: Sequence[Message], tools: Sequence[dict] | None = None
    ) -> list[int]:
        """Returns the ids of a whole conversation with the generation prompt."""
        return self._text.encode_masked(self._render_masked(messages, tools, True))

    def turn_ids(
        self, messages: Sequence[Message], tools: Sequence[dict] | None = None
    ) -> list[int]:
        """Returns the ids of the last (assistant) turn as the template writes it.

        This is the rendering up to and including the turn's end, minus the prompt
        before it (spec 12.4): thinking is shown, tool calls are rendered again.

        Raises:
          UserError: if the template renders the prompt differently once the turn
            follows it.
        """
        prompt = self._render_masked(messages[:-1], tools, True)
        whole = self._render_masked(messages, tools, False)
        if not whole.startswith(prompt):
            raise UserError(
                "chat template: it renders earlier messages differently once a turn is "
                "added, so it is unknown where the turn starts: use another template"
            )
        return self._text.encode_masked(whole[len(prompt) :])

    def turn_end_ids(self) -> list[int]:
        """Returns the ids that close an assistant's turn, ``<|im_end|>\\n`` in ChatML.

        A caller whose sampler already produced the first id drops it.
        """
        return self._text.encode_masked(self._turn_end)

    def environment_ids(self, messages: Sequence[Message]) -> list[int]:
        """Returns the ids of user or tool messages after a closed assistant turn.

        They include the generation prompt that follows. With an append-only template
        these are exactly the ids that ``prompt_ids`` would add.
        """
        return self._text.encode_masked(self._environment_text(messages))

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict] | None = None,
        add_generation_prompt: bool = False,
    ) -> str:
        """Returns the conversation as text, with what the template adds."""
        return self._text.unmasked(
            self._render_masked(messages, tools, add_generation_prompt)
        )

    def encode_text(self, text: str) -> list[int]:
        """Returns the ids of content; no control token is ever among them."""
        return self._text.encode_text(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids, control tokens included."""
        return self._text.decode(list(ids))

    def cut_text(self, text: str, limit: int) -> str:
        """The first ``limit`` tokens of content as text; all of it if it has no more.

        A character whose tokens don't all fit is left out whole.
        """
        ids = self.encode_text(text)
        if len(ids) <= limit:
            return text
        # No character has more than four tokens, a normalizer may join a few.
        for count in range(limit, max(limit - 8, -1), -1):
            if text.startswith(short := self.decode(ids[:count])):
                return short
        return self.decode(ids[:limit]).rstrip("\ufffd")  # decoding loses something

    def _render_masked(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict] | None,
        add_generation_prompt: bool,
    ) -> str:
        prepared = [self._prepare(message) for message in messages]
        try:
            return self._tokenizer.apply_chat_template(
                prepared,
                tools=self._text.masked(list(tools)) if tools else None,
                chat_template=self._dated,
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
            )
        except Exception as error:  # a template is a program
            roles = ", ".join(message["role"] for message in messages)
            raise UserError(
                f"chat template: can't render a conversation of {roles} "
                f"({first_line(error)}): use another template, or messages that this "
                "one supports"
            ) from error

    def _prepare(self, message: Message) -> Message:
        """Returns a message for the template: masked, tool calls in OpenAI's form."""
        prepared = {
            "role": message["role"],
            "content": self._text.masked(message.get("content") or ""),
        }
        if message.get("reasoning_content"):
            prepared["reasoning_content"] = self._text.masked(
                message["reasoning_content"]
            )
        if message.get("tool_calls"):
            prepared["tool_calls"] = [
                {"type": "function", "function": self._text.masked(dict(call))}
                for call in message["tool_calls"]
            ]
        return prepared

    def _tail(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        """Renders question, reply, ``messages``; returns the text after the reply."""
        reply = "zq reply zq"
        start = [
            {"role": "user", "content": "question"},
            {"role": "assistant", "content": reply},
        ]
        text = self._render_masked([*start, *messages], None, add_generation_prompt)
        if text.count(reply) != 1:
            raise UserError(
                "chat template: it changes the content of assistant messages: use "
                "another template"
            )
        return text.partition(reply)[2]

    def _find_turn_end(self) -> str:
        """Returns the text that closes an assistant's turn before a user's turn."""
        tail = self._tail([{"role": "user", "content": "more"}], True)
        control = self._text.find(tail)
        if control is None:
            return ""
        behind = tail[control.end() :]
        return tail[: len(tail) - len(behind.lstrip())]

    def _environment_text(self, messages: Sequence[Message]) -> str:
        return self._tail(messages, True).removeprefix(self._turn_end)

    def _find_opening(self) -> str:
        """Returns what of a turn the prompt has already: thinking that it opens."""
        prompt = self._render_masked([{"role": "user", "content": "q"}], None, True)
        start = prompt.rfind("<think>")
        opened = start >= 0 and not prompt[start:].removeprefix("<think>").strip()
        return prompt[start:] if opened else ""

    def _check_pieces(self) -> None:
        """Checks on examples that text in pieces is the whole text, with its ids."""
        user, reply, more = PROBE_TURNS
        messages = [
            {"role": "user", "content": user},
            {"role": "assistant", "content": reply},
            {"role": "user", "content": more},
        ]
        first, second = "some words", "more words"
        pieces = [*self.encode_text(first), *self.encode_text(second)]
        same = self.decode(pieces) == first + second
        for some in (messages[:1], messages):
            text = self.render(some, add_generation_prompt=True)
            whole = self._tokenizer.encode(text, add_special_tokens=False)
            same = same and self.prompt_ids(some) == whole
        if not same:
            raise UserError(
                "tokenizer: a piece of text has other ids than the same text within a "
                "conversation (it adds a space, as Llama-2's, or drops spaces beside "
                "control tokens): use a byte-level tokenizer"
            )

    def _probe_append_only(self) -> bool:
        """Checks on examples that a longer conversation extends a shorter one.

        Both its text and its ids: a tokenizer may join the start of a reply with what
        is before it.
        """
        start = [{"role": "user", "content": "question"}]
        more = [{"role": "user", "content": "more"}]
        replies = PROBE_REPLIES
        if self.opening:
            replies = (f"{self.opening}plain", f"{self.opening}some\n</think>\n\nwords")
        for reply in replies:
            said = reply.removeprefix(self.opening)
            kept = self._render_masked(start, None, True) + said + self._turn_end
            grown = [*start, {"role": "assistant", "content": reply}, *more]
            rendered = self._render_masked(grown, None, True)
            if rendered != kept + self._environment_text(more):
                return False
            pieces = [*self.prompt_ids(start), *self.encode_text(said)]
            pieces += [*self.turn_end_ids(), *self.environment_ids(more)]
            if self._text.encode_masked(rendered) != pieces:
                return False
        return True


def _dated(template: str, date: str) -> str:
    """``template`` with a ``strftime_now`` of its own, which always says ``date``.

    That of transformers asks the clock, and functions can't be handed to a template:
    transformers replaces them by a text.
    """
    if "strftime_now" not in template:
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
    return file.read_text(encoding="utf-8")


def _packaged() -> list[str]:
    return sorted(file.stem for file in TEMPLATES.glob("*.jinja"))
