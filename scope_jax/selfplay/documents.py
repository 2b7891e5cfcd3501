"""From passages to Challenger prompts: document, task type, number of searches.

The corpus in a seeded permutation, the document cut to its first tokens, a task type
and a number of search turns drawn for every prompt (spec 11.1).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from models.chat import ChatRenderer
from models.errors import UserError
from retrieval.passages import Passage, Passages
from scope_jax.config import Config
from scope_jax.method import draws
from scope_jax.method.types import Document


@dataclass(frozen=True, kw_only=True)
class ChallengerPrompt:
    """What one Challenger prompt is made from; ``index`` counts from 0."""

    index: int
    document: Document
    task_type: str
    searches: int


LONGEST = 64
"""Characters of a document for each token that it may have; the rest of a book is not
tokenized, to be thrown away."""


def document_text(title: str, text: str, *, first_line: bool = False) -> str:
    """A passage as a document: its title, then its text (spec 11.1).

    Args:
      first_line: of the text only the first line, as in the reference (spec Q54).
    """
    if first_line:
        shown = text.split("\n", 1)[0]
    else:
        blank = len(text) - len(text.lstrip())
        begins = text.rfind("\n", 0, blank) + 1  # of the first line with a word
        shown = text[begins:].rstrip("\n")
    return f"(Title: {title})\n{shown}\n"


def source_document(passage: Passage, renderer: ChatRenderer, config: Config) -> str:
    """A passage as the Challenger reads it: cut to its first tokens (spec Q50)."""
    text = document_text(
        passage.title,
        passage.text,
        first_line=config.compat.first_line_documents,
    )
    most = config.documents.max_tokens
    return renderer.cut_text(text[: LONGEST * most], most)


def truncator(
    limit: int, unit: Literal["tokens", "characters"], renderer: ChatRenderer
) -> Callable[[str], str]:
    """Cuts tool text to ``limit`` tokens or characters and says so (spec 2.5)."""

    def cut(text: str) -> str:
        short = text[:limit]
        if unit == "tokens":
            short = renderer.cut_text(text, limit)
        return text if short == text else short + "...(truncated)"

    return cut


def check_heldout(heldout: int, passages: int) -> None:
    """Refuses to hold out fewer than no passages, or all of them.

    Raises:
      UserError: with the number of passages.
    """
    if not 0 <= heldout < passages:
        raise UserError(
            f"documents.heldout={heldout}: of {passages} passages, 0 to {passages - 1} "
            "can be held out"
        )


@lru_cache(maxsize=2)
def _places(documents: int, seed: int, offset: int, count: int) -> list[int]:
    """``count`` places of the corpus's permutation, from ``offset`` on.

    Kept, as each step of a stage asks for the same ones: to permute 21 million
    documents takes seconds.
    """
    permutation = np.random.default_rng(seed).permutation(documents)
    return permutation[np.arange(offset, offset + count) % documents].tolist()


def challenger_prompts(
    passages: Passages,
    renderer: ChatRenderer,
    *,
    count: int,
    seed: int,
    config: Config,
    draw_seed: int | None = None,
    offset: int = 0,
    only: Sequence[int] | None = None,
) -> list[ChallengerPrompt]:
    """Challenger prompts ``offset .. offset + count`` of the corpus's permutation.

    Args:
      passages: the corpus; its last ``documents.heldout`` are left out.
      renderer: of the policy, whose tokenizer cuts the documents.
      count: how many prompts there are.
      seed: of the permutation.
      config: the schedule of searches, the task types, the limit of a document.
      draw_seed: of the schedule and the task types; ``seed`` if not given.
      offset: where in the permutation they start; past its end it starts over.
      only: make just these (documents are cut only where they are used).
    """
    draw_seed = seed if draw_seed is None else draw_seed
    documents = len(passages) - config.documents.heldout
    places = _places(documents, seed, offset, count)
    searches = draws.search_schedule(config.challenger.schedule, count, draw_seed)
    types = draws.task_types(
        count, draw_seed, short_form_qa_ratio=config.challenger.short_form_qa_ratio
    )
    made = []
    for index in map(int, range(count) if only is None else only):
        passage = passages[places[index]]
        text = source_document(passage, renderer, config)
        made.append(
            ChallengerPrompt(
                index=index,
                document=Document(id=str(passage.id), title=passage.title, text=text),
                task_type=types[index],
                searches=searches[index],
            )
        )
    return made
