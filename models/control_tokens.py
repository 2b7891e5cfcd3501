"""Which strings of rendered text become control tokens: the template's own, no others.

Text from a person, a document or a model must never become a control token. But a
template may inspect that text (Qwen3's splits it at ``</think>``), trim it or print it
as JSON. So the template gets the real content, in which only the strings of control
tokens are masked. Any control string in the rendered text then comes from the template,
and the text is split there. The pieces in between are encoded with control tokens
treated as ordinary text.

Tags that are tokens without being control tokens (``<think>``, ``<tool_call>``) are for
models to write, so content may hold them: but not its parts from outside
(``mixed_text``), in which they are masked, and encoded as ordinary text, too.
"""

import json
import re
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

from models.errors import UserError
from models.mixed_text import spans_of
from models.word_cache import keep_words_only

# A masked string is written as MASK index MASK. MASK is a Unicode noncharacter, which
# text should not contain; where text does, it is masked too (index 0), so unmasking is
# exact.
MASK = "\ufdd0"
_MASKED = re.compile(f"{MASK}(\\d+){MASK}")
# Added tokens of this form are control tokens even if the tokenizer doesn't mark them
# as special (Qwen3's <|fim_prefix|>); <think> and <tool_call> don't have this form.
CONTROL_FORM = re.compile(r"<\|.*\|>|<｜.*｜>", re.DOTALL)
# Other added tokens that structure a conversation. (There are also runs of spaces, and
# whole words and names.)
TAG_FORM = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
# White space to the Rust tokenizer: Unicode's. Python's has four characters more.
WHITE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000"
WHITE += "".join(map(chr, range(0x2000, 0x200B)))


class ControlTokens:
    """Masks, splits and encodes text for one tokenizer; thread-safe.

    Attributes:
      ids: the control strings and their ids.
    """

    def __init__(self, tokenizer: Any):
        fields = json.loads(tokenizer.backend_tokenizer.to_str())
        special = set(tokenizer.all_special_tokens)
        for token in fields["added_tokens"]:
            text = token["content"]
            # The Rust tokenizer splits only tokens that are marked special.
            token["special"] = bool(
                token["special"] or text in special or CONTROL_FORM.fullmatch(text)
            )
        fields["truncation"] = fields["padding"] = None
        self._content = _without_special(fields)
        self.ids: dict[str, int] = {}
        self._tags: dict[str, int] = {}
        # Control strings that swallow the white space behind or before them (Phi's).
        self._swallow = {
            side: {t["content"] for t in fields["added_tokens"] if t[side]}
            for side in ("rstrip", "lstrip")
        }
        for token in fields["added_tokens"]:
            if token["special"]:
                self.ids[token["content"]] = token["id"]
            elif TAG_FORM.fullmatch(token["content"]):
                self._tags[token["content"]] = token["id"]
        forbidden = set(self.ids.values()) - {tokenizer.unk_token_id}
        for text in self.ids:
            if forbidden.intersection(self.encode_text(text)):
                raise UserError(
                    f"tokenizer: it can't encode {text!r} as ordinary text, so "
                    "documents could forge control tokens: use a byte-level tokenizer"
                )
        # Longer strings first, as the tokenizer looks for them.
        controls, tags = (
            sorted(x, key=len, reverse=True) for x in (self.ids, self._tags)
        )
        self._masks = {text: str(i) for i, text in enumerate([MASK, *controls, *tags])}
        self._unmask = {index: text for text, index in self._masks.items()}
        self._controls = _any_of(controls)
        self._tag = _any_of(tags)
        self._maskable = _any_of([*controls, MASK])

    def find(self, text: str) -> re.Match[str] | None:
        """The first control string of rendered text."""
        return self._controls.search(text)

    def masked(self, value: Any) -> Any:
        """``value`` with what must not become a token masked in all of its strings."""
        if isinstance(value, str):
            return self._masked_text(value)
        if isinstance(value, dict):
            return {self.masked(k): self.masked(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self.masked(item) for item in value]
        return value

    def unmasked(self, text: str) -> str:
        """Undoes ``masked``."""
        if MASK not in text:
            return text
        return _MASKED.sub(lambda match: self._unmask[match[1]], text)

    def encode_masked(self, text: str) -> list[int]:
        """Encodes rendered text, whose control strings all come from the template."""
        ids: list[int] = []
        parts = self._controls.split(text)
        for index, piece in enumerate(parts):
            if index % 2:
                ids.append(self.ids[piece])
                continue
            if index and parts[index - 1] in self._swallow["rstrip"]:
                piece = piece.lstrip(WHITE)
            if index + 1 < len(parts) and parts[index + 1] in self._swallow["lstrip"]:
                piece = piece.rstrip(WHITE)
            if piece:
                ids.extend(self._piece_ids(piece))
        return ids

    def encode_text(self, text: str) -> list[int]:
        """The ids of content; no control token is ever among them."""
        return self._content.encode(encodable(text), add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        """The text of ids, control tokens included."""
        return self._content.decode(ids, skip_special_tokens=False)

    def _masked_text(self, text: str) -> str:
        spans, text = spans_of(text), encodable(text)
        out, at = [], 0
        for match in self._maskable.finditer(text):
            out.append(self._tags_masked(text, at, match.start(), spans))
            out.append(f"{MASK}{self._masks[match[0]]}{MASK}")
            at = match.end()
        return "".join([*out, self._tags_masked(text, at, len(text), spans)])

    def _tags_masked(
        self, text: str, start: int, stop: int, spans: tuple[tuple[int, int], ...]
    ) -> str:
        """``text[start:stop]``; tags with a character from outside are masked."""
        out, at = [], start
        for match in self._tag.finditer(text, start, stop) if spans else ():
            if any(low < match.end() and match.start() < high for low, high in spans):
                out += [
                    text[at : match.start()],
                    f"{MASK}{self._masks[match[0]]}{MASK}",
                ]
                at = match.end()
        return "".join([*out, text[at:stop]])

    def _piece_ids(self, piece: str) -> list[int]:
        indices = map(int, _MASKED.findall(piece))
        if max(indices, default=0) <= len(self.ids):
            return self.encode_text(self.unmasked(piece))
        # Some tags are from outside. Those that aren't are tokens, all else is text.
        ids: list[int] = []
        for index, part in enumerate(self._tag.split(piece)):
            if index % 2:
                ids.append(self._tags[part])
            elif part:
                plain = encodable(self.unmasked(part))
                ids.extend(self._plain.encode(plain, add_special_tokens=False).ids)
        return ids

    @cached_property
    def _plain(self) -> Tokenizer:
        """A tokenizer that makes tokens of neither control strings nor tags."""
        fields = json.loads(self._content.to_str())
        for token in fields["added_tokens"]:
            token["special"] = token["special"] or token["content"] in self._tags
        return _without_special(fields)


def encodable(text: str) -> str:
    """``text`` without lone surrogates, which JSON written by a model may hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode("utf-8")
    return text


def _without_special(fields: dict[str, Any]) -> Tokenizer:
    """A tokenizer that treats its special tokens as ordinary text.

    It is a copy, because setting ``split_special_tokens`` changes the state of a
    transformers tokenizer, which other threads share.
    """
    copy = Tokenizer.from_str(json.dumps(fields))
    copy.encode_special_tokens = True
    return keep_words_only(copy)


def _any_of(texts: list[str]) -> re.Pattern[str]:
    """Matches any of ``texts``, the first in the list where several would do."""
    return re.compile(f"({'|'.join(map(re.escape, texts)) or '(?!)'})")
