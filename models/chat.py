"""Conversations to token ids, through any Hugging Face chat template.

The text between control tokens is encoded piece by piece (``control_tokens`` says why).
Where the content has no control string, the ids equal those of
``tokenizer.apply_chat_template``; a tokenizer for which that isn't so is refused.
"""

import copy
import itertools
import re
from collections.abc import Sequence
from typing import Any

from models.chat_templates import DATE, dated, load_template
from models.control_tokens import ControlTokens
from models.errors import UserError, first_line

Message = dict[str, Any]

# Tokens other than a family's end of turn that end a text or a message.
ENDS = ("<|endoftext|>", "<|end_of_text|>", "<|eom_id|>")
# Enough for ``<think>`` and line breaks, a byte a token.
OPENING_TOKENS = 16
REPLY_NUMBER = re.compile(r"zq reply (\d+)")
PROBE_OPENING = "<think>\n"
PROBE_REPLIES = ("plain words", "<think>\nsome thought\n</think>\n\nplain words")
# With all that a tokenizer may treat in a way of its own at the ends of a piece: spaces
# and line breaks at both ends of content, digits, letters of several bytes.
PROBE_TURNS = (
    " Wie weit,\u00fcber  12.5 km?\n\n  \u6f22\u5b57 ",
    "Plain words.\n\n- one\n",
    "\nmore ",
)


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
      opening: what of a turn the template writes into a prompt that ends with a user's
        message: ``<think>`` and a line break (Qwen3-Thinking, R1), else empty. A
        sampled turn continues it, and only both together are the turn's text.
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
        self._dated = dated(template, date)
        self._text = ControlTokens(tokenizer)
        self._turn_end = self._find_turn_end()
        first = self._text.find(self._turn_end)
        ends = [self._text.ids[first[0]]] if first else []
        if tokenizer.eos_token_id is not None:
            ends.append(tokenizer.eos_token_id)
        ends += [self._text.ids[text] for text in ENDS if text in self._text.ids]
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys(ends))
        self.opening: str = self._find_opening()
        self._shows_turns = self._find_shows_turns()
        self._check_pieces()
        self.append_only: bool = self._probe_append_only()

    def on_day(self, date: str) -> "ChatRenderer":
        """The same renderer, whose template is told another day (YYYY-MM-DD)."""
        if self._dated == self.template:
            return self
        other = copy.copy(self)
        other._dated = dated(self.template, date)
        return other

    def prompt_ids(
        self, messages: Sequence[Message], tools: Sequence[dict] | None = None
    ) -> list[int]:
        """Returns the ids of a whole conversation with the generation prompt."""
        return self._text.encode_masked(self._render_masked(messages, tools, True))

    def turn_ids(
        self, messages: Sequence[Message], tools: Sequence[dict] | None = None
    ) -> list[int] | None:
        """Returns the ids of the last (assistant) turn as the template writes it.

        This is the rendering up to and including the turn's end, minus the prompt
        before it (spec 12.4): thinking is shown, tool calls are rendered again. None
        if the template never writes the turn so: it changes the prompt once a turn
        follows, or drops thinking even from a last turn (R1's).
        """
        prompt = self._render_masked(messages[:-1], tools, True)
        whole = self._render_masked(messages, tools, False)
        if not (self._shows_turns and whole.startswith(prompt)):
            return None
        return self._text.encode_masked(whole[len(prompt) :])

    def opening_of(self, prompt: Sequence[int]) -> str:
        """What of a turn the ids of a prompt have already: thinking that it opens.

        That may depend on the prompt's last message: R1's template opens nothing
        behind a tool's result.
        """
        return _opened(self.decode(prompt[-OPENING_TOKENS:]))

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
        # Words that the messages do not have: a passage may be this file.
        taken = set(REPLY_NUMBER.findall(repr(messages)))
        number = next(n for n in itertools.count() if str(n) not in taken)
        reply = f"zq reply {number} zq"
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
        return _opened(
            self._render_masked([{"role": "user", "content": "q"}], None, True)
        )

    def _find_shows_turns(self) -> bool:
        """Whether a last turn stands, thinking and all, behind the prompt before it."""
        start = [{"role": "user", "content": "question"}]
        reply = f"{self.opening or PROBE_OPENING}zq thought zq\n</think>\n\nwords"
        prompt = self._render_masked(start, None, True)
        turn = {"role": "assistant", "content": reply}
        whole = self._render_masked([*start, turn], None, False)
        return whole.startswith(prompt) and "zq thought zq" in whole

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


def _opened(prompt: str) -> str:
    """The thinking block that a prompt opens at its end."""
    start = prompt.rfind("<think>")
    opened = start >= 0 and not prompt[start:].removeprefix("<think>").strip()
    return prompt[start:] if opened else ""
