"""Conversations to token ids, through any Hugging Face chat template.

Text from a person, a document or a model must never become a control token. But a
template may inspect that text (Qwen3's splits it at ``</think>``), trim it or print it
as JSON. So the template gets the real content, in which only the strings of control
tokens are masked. Any control string in the rendered text then comes from the template,
and the text is split there. The pieces in between are encoded with control tokens
treated as ordinary text. Where the content has no control string, the ids equal those
of ``tokenizer.apply_chat_template``.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from models.errors import UserError, first_line

Message = dict[str, Any]

TEMPLATES = Path(__file__).parent / "templates"
# A control string is masked as MASK index MASK. MASK is a Unicode noncharacter, which
# text should not contain; where text does, it is masked too (index 0), so unmasking is
# exact.
MASK = "\ufdd0"
# Added tokens of this form are control tokens even if the tokenizer doesn't mark them
# as special (Qwen3's <|fim_prefix|>); <think> and <tool_call> don't have this form.
CONTROL_FORM = re.compile(r"<\|.*\|>|<｜.*｜>", re.DOTALL)
# Tokens other than a family's end of turn that end a text or a message.
ENDS = ("<|endoftext|>", "<|end_of_text|>", "<|eom_id|>")
PROBE_REPLIES = ("plain words", "<think>\nsome thought\n</think>\n\nplain words")


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
    """

    @classmethod
    def from_tokenizer(
        cls, tokenizer: Any, *, template: str | None = None
    ) -> "ChatRenderer":
        """Builds the renderer of a ``PreTrainedTokenizerFast``.

        Args:
          tokenizer: a fast tokenizer.
          template: the name of a packaged template (``qwen3_strip_thinking``), a path
            that ends in ``.jinja``, Jinja source, or None for the tokenizer's own.

        Raises:
          UserError: if there is no template, or it can't be used.
        """
        return cls(tokenizer, load_template(tokenizer, template))

    def __init__(self, tokenizer: Any, template: str):
        self.template = template
        self._tokenizer = tokenizer
        self._content, self._control = _content_tokenizer(tokenizer)
        longest_first = sorted(self._control, key=len, reverse=True)
        self._masks = {text: str(i + 1) for i, text in enumerate(longest_first)}
        self._masks[MASK] = "0"
        self._unmask = {index: text for text, index in self._masks.items()}
        alternatives = "|".join(map(re.escape, longest_first)) or "(?!)"
        self._controls_of = re.compile(f"({alternatives})")
        self._maskable = re.compile(f"{alternatives}|{MASK}")
        self._turn_end = self._find_turn_end()
        ends = [self._control[c] for c in self._controls_of.findall(self._turn_end)[:1]]
        if tokenizer.eos_token_id is not None:
            ends.append(tokenizer.eos_token_id)
        ends += [self._control[text] for text in ENDS if text in self._control]
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys(ends))
        self.append_only: bool = self._probe_append_only()

    def prompt_ids(
        self, messages: Sequence[Message], tools: Sequence[dict] | None = None
    ) -> list[int]:
        """Returns the ids of a whole conversation with the generation prompt."""
        return self._encode_masked(self._render_masked(messages, tools, True))

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
        return self._encode_masked(whole[len(prompt) :])

    def turn_end_ids(self) -> list[int]:
        """Returns the ids that close an assistant's turn, ``<|im_end|>\\n`` in ChatML.

        A caller whose sampler already produced the first id drops it.
        """
        return self._encode_masked(self._turn_end)

    def environment_ids(self, messages: Sequence[Message]) -> list[int]:
        """Returns the ids of user or tool messages after a closed assistant turn.

        They include the generation prompt that follows. With an append-only template
        these are exactly the ids that ``prompt_ids`` would add.
        """
        return self._encode_masked(self._environment_text(messages))

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict] | None = None,
        add_generation_prompt: bool = False,
    ) -> str:
        """Returns the conversation as text, with what the template adds."""
        return self._unmasked(
            self._render_masked(messages, tools, add_generation_prompt)
        )

    def encode_text(self, text: str) -> list[int]:
        """Returns the ids of content; no control token is ever among them."""
        return self._content.encode(_encodable(text), add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids, control tokens included."""
        return self._content.decode(list(ids), skip_special_tokens=False)

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
                tools=self._masked(list(tools)) if tools else None,
                chat_template=self.template,
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
            "content": self._masked(message.get("content") or ""),
        }
        if message.get("reasoning_content"):
            prepared["reasoning_content"] = self._masked(message["reasoning_content"])
        if message.get("tool_calls"):
            prepared["tool_calls"] = [
                {"type": "function", "function": self._masked(dict(call))}
                for call in message["tool_calls"]
            ]
        return prepared

    def _masked(self, value: Any) -> Any:
        """Returns ``value`` with control strings masked in all of its strings."""
        if isinstance(value, str):
            return self._maskable.sub(
                lambda match: f"{MASK}{self._masks[match[0]]}{MASK}", _encodable(value)
            )
        if isinstance(value, dict):
            return {self._masked(k): self._masked(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self._masked(item) for item in value]
        return value

    def _unmasked(self, text: str) -> str:
        if MASK not in text:
            return text
        return re.sub(f"{MASK}(\\d+){MASK}", lambda m: self._unmask[m[1]], text)

    def _encode_masked(self, text: str) -> list[int]:
        """Encodes rendered text, whose control strings all come from the template."""
        ids: list[int] = []
        for index, piece in enumerate(self._controls_of.split(text)):
            if index % 2:
                ids.append(self._control[piece])
            elif piece:
                ids.extend(self.encode_text(self._unmasked(piece)))
        return ids

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
        control = self._controls_of.search(tail)
        if control is None:
            return ""
        behind = tail[control.end() :]
        return tail[: len(tail) - len(behind.lstrip())]

    def _environment_text(self, messages: Sequence[Message]) -> str:
        return self._tail(messages, True).removeprefix(self._turn_end)

    def _probe_append_only(self) -> bool:
        """Checks on examples that a longer conversation's text extends a shorter's."""
        start = [{"role": "user", "content": "question"}]
        more = [{"role": "user", "content": "more"}]
        for reply in PROBE_REPLIES:
            kept = self._render_masked(start, None, True) + reply + self._turn_end
            grown = [*start, {"role": "assistant", "content": reply}, *more]
            rendered = self._render_masked(grown, None, True)
            if rendered != kept + self._environment_text(more):
                return False
        return True


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


def _content_tokenizer(tokenizer: Any) -> tuple[Tokenizer, dict[str, int]]:
    """Returns a tokenizer that splits control strings, and the ids of control tokens.

    It is a copy, because setting ``split_special_tokens`` changes the state of a
    transformers tokenizer, which other threads share.
    """
    fields = json.loads(tokenizer.backend_tokenizer.to_str())
    special = set(tokenizer.all_special_tokens)
    for token in fields["added_tokens"]:
        text = token["content"]
        # The Rust tokenizer splits only tokens that are marked special.
        token["special"] = bool(
            token["special"] or text in special or CONTROL_FORM.fullmatch(text)
        )
    fields["truncation"] = fields["padding"] = None
    copy = Tokenizer.from_str(json.dumps(fields))
    copy.encode_special_tokens = True
    control = {t["content"]: t["id"] for t in fields["added_tokens"] if t["special"]}
    forbidden = set(control.values()) - {tokenizer.unk_token_id}
    for text in control:
        if forbidden.intersection(copy.encode(text, add_special_tokens=False).ids):
            raise UserError(
                f"tokenizer: it can't encode {text!r} as ordinary text, so documents "
                "could forge control tokens: use a byte-level tokenizer"
            )
    return copy, control


def _encodable(text: str) -> str:
    """Returns text without lone surrogates, which JSON written by a model may hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode("utf-8")
    return text
