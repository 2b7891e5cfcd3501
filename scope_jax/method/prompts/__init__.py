"""Prompt sets: folders of text files with ``{slot}`` names, checked when loaded.

A set holds every prompt of the method (spec 3.4, 3.5, 3.7, 6, 7, 8) and, optionally,
``examples/NAME.json``: example turns that precede the real ones. How slots are filled:
``templates``.

What the judge is told comes first, then what many of its calls share (the task, the
answer), then what is specific to a call (the rubric), so that an engine's prefix cache
holds all but the end.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from models.errors import UserError, first_line
from models.mixed_text import mixed, outside
from scope_jax.method.formats import Message
from scope_jax.method.prompts.templates import (
    Template,
    read_template,
    read_text,
)
from scope_jax.method.types import TOOL_FORMATS, ToolFormat

TASK_TYPES = (
    "long_form_qa",
    "planning",
    "short_form_qa",
    "summarization",
    "writing",
)
GATES = ("entity", "source_relevance")

# file stem -> (slots that must occur, slots that may occur)
SLOTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "challenger_{format}": (
        ("source_document", "task_type", "num_search_turns"),
        ("task_description",),
    ),
    "solver_{format}": (("question", "max_search_turns"), ()),
    "preamble_{format}": (("max_search_turns",), ()),
    "rubric": (("task_prompt", "documents"), ("task_type",)),
    "rubric_evidence": ((), ()),
    "judge_answer": (("task_prompt", "documents"), ()),
    "judge_answer_rubrics": (("rubrics",), ()),
    "critique": (("task_prompt", "documents", "response", "verdicts"), ()),
    "critique_context": (("critique",), ()),
    "document_context": (("documents",), ()),
    "candidate": (("candidate",), ()),
    "wrong_candidates": (("question", "candidates"), ()),
    "both_candidates": (("question", "candidates"), ()),
    "grader": (("response", "rubric"), ("prompt",)),
    "grader_thinking": (("response", "rubric"), ("prompt",)),
    "gate_entity": (("task_prompt",), ()),
    "gate_source_relevance": (("source_document", "task_prompt"), ()),
    "after_search": (("remaining",), ("target",)),
    "no_result": (("remaining",), ("target",)),
    "final": ((), ("target",)),
    "final_xml": ((), ("target",)),
    "invalid_action_{format}": ((), ()),
    "forced_answer": ((), ()),
    "grade_retry": ((), ()),
    **{f"tasks/{name}": ((), ()) for name in TASK_TYPES},
}
_JUDGE_FILES = (
    "rubric",
    "grader",
    "grader_thinking",
    "gate_entity",
    "gate_source_relevance",
)
_NEWER = ("preamble_", "rubric_evidence", "judge_answer")
_NEWER += ("candidate", "wrong_candidates", "both_candidates")
_NEWER += ("critique", "document_context")
_EXAMPLES = ("challenger_{format}", "solver_{format}", *_JUDGE_FILES)
# Parameter of the search tool -> its schema.
_PARAMETERS: dict[str, dict[str, Any]] = {
    "query_list": {
        "type": "array",
        "items": {"type": "string"},
        "description": "Complete semantic queries, each understandable on its own.",
    },
    "query": {"type": "string", "description": "One complete semantic query."},
}
_HEADING = re.compile(r"((?:^|[\r\n\v\f\x85\u2028\u2029])[ \t]*)(?=#[# \t])")


@dataclass(frozen=True, eq=False)
class PromptSet:
    """Every prompt of one set for one tool format; methods return messages."""

    name: str
    tool_format: ToolFormat
    templates: Mapping[str, Template]
    examples: Mapping[str, tuple[Message, ...]]

    def challenger(
        self, document: str, task_type: str, searches: int
    ) -> tuple[Message, ...]:
        """Opening messages of a Challenger conversation (spec 3.4)."""
        if task_type not in TASK_TYPES:
            raise UserError(
                f"task type {task_type!r}: unknown: use one of {', '.join(TASK_TYPES)}"
            )
        return self._messages(
            "challenger_{format}",
            # A line of the document must not pass for the prompt's next heading.
            source_document=_HEADING.sub(r"\1\\", document),
            task_type=task_type,
            task_description=self.templates[f"tasks/{task_type}"].text,
            num_search_turns=searches,
        )

    def solver(self, task: str, max_searches: int) -> tuple[Message, ...]:
        """Opening messages of a Solver conversation (spec 3.5)."""
        return self._messages(
            "solver_{format}", question=task, max_search_turns=max_searches
        )

    def dialogue(
        self, messages: Sequence[Message], max_searches: int
    ) -> tuple[Message, ...]:
        """A conversation to continue, behind the Solver's rules (spec 13.1)."""
        rules = self.templates["preamble_{format}"].fill(max_search_turns=max_searches)
        first, *rest = ({**m, "content": outside(m["content"])} for m in messages)
        content = mixed(rules, "\n\n", first["content"])
        return ({**first, "content": content}, *rest)

    def rubric(
        self, task: str, task_type: str, documents: str, *, evidence: bool = False
    ) -> tuple[Message, ...]:
        """Asks the judge to write rubrics (spec 6), with or without evidence."""
        *before, last = self._messages(
            "rubric", task_prompt=task, task_type=task_type, documents=documents
        )
        if evidence:
            more = self.templates["rubric_evidence"].text
            last = {**last, "content": mixed(last["content"], "\n\n", more)}
        return (*before, last)

    def judge_answer(
        self, task: str, documents: str, rubrics: Sequence[str] = ()
    ) -> tuple[Message, ...]:
        """Asks the judge to answer a task itself, from documents.

        With ``rubrics`` it is told what its answer will be held against.
        """
        *before, last = self._messages(
            "judge_answer", task_prompt=task, documents=documents
        )
        if rubrics:
            lines = "\n".join(f"{i}. {rubric}" for i, rubric in enumerate(rubrics, 1))
            more = self.templates["judge_answer_rubrics"].fill(rubrics=lines)
            last = {**last, "content": mixed(last["content"], "\n\n", more)}
        return (*before, last)

    def critique(
        self, task: str, documents: str, answer: str, verdicts: str
    ) -> tuple[Message, ...]:
        """Asks the judge to correct an answer, given how it was graded."""
        return self._messages(
            "critique",
            task_prompt=task,
            documents=documents,
            response=answer,
            verdicts=verdicts,
        )

    def critique_context(self, critique: str) -> str:
        """What a teacher's prompt says more: a critique of the answer."""
        return self.templates["critique_context"].fill(critique=critique)

    def document_context(self, documents: str) -> str:
        """What a teacher's prompt says more: the document."""
        return self.templates["document_context"].fill(documents=documents)

    def wrong_candidates(self, question: str, candidates: Sequence[str]) -> str:
        """A question for the Solver with answers that were wrong."""
        return self._candidates("wrong_candidates", question, candidates)

    def both_candidates(self, question: str, candidates: Sequence[str]) -> str:
        """A question for the Solver with two answers, of which one was right."""
        return self._candidates("both_candidates", question, candidates)

    def _candidates(self, stem: str, question: str, candidates: Sequence[str]) -> str:
        one = self.templates["candidate"]
        shown = "\n".join(one.fill(candidate=text) for text in candidates)
        return self.templates[stem].fill(question=question, candidates=shown)

    def grade(
        self, task: str, answer: str, rubric: str, *, thinking: bool = False
    ) -> tuple[Message, ...]:
        """Asks the judge to grade ``answer`` against one rubric (spec 7).

        ``thinking`` takes the variant for a judge that thinks by itself.
        """
        return self._messages(
            "grader_thinking" if thinking else "grader",
            prompt=task,
            response=answer,
            rubric=rubric,
        )

    def grade_retry(
        self, messages: Iterable[Message], failed: str
    ) -> tuple[Message, ...]:
        """The grading conversation after an output that could not be read (spec 7)."""
        return (
            *messages,
            {"role": "assistant", "content": failed},
            {"role": "user", "content": self.templates["grade_retry"].text},
        )

    def gate(self, name: str, *, task: str, document: str) -> tuple[Message, ...]:
        """Asks the judge whether ``task`` passes the quality gate ``name`` (spec 8)."""
        if name not in GATES:
            raise UserError(f"gate {name!r}: unknown: use any of {', '.join(GATES)}")
        return self._messages(
            f"gate_{name}", task_prompt=task, source_document=document
        )

    def guidance(self, name: str, *, remaining: int, target: int) -> str:
        """``after_search``, ``no_result``, ``final`` or ``final_xml`` (spec 3.7)."""
        return self.templates[name].fill(remaining=remaining, target=target)

    def invalid_action(self) -> str:
        """The user turn after an action that could not be read."""
        return self.templates["invalid_action_{format}"].text

    def forced_answer(self) -> str:
        """The user turn that forces an answer once searches are used up."""
        return self.templates["forced_answer"].text

    def tools(self) -> list[dict[str, Any]] | None:
        """The tool schema that the chat template shows; None for ``search_r1``."""
        if self.tool_format == "search_r1":
            return None
        name = "query_list" if self.tool_format == "tool_call" else "query"
        function = {
            "name": "search",
            "description": "Finds the passages of the corpus nearest in meaning.",
            "parameters": {
                "type": "object",
                "properties": {name: _PARAMETERS[name]},
                "required": [name],
            },
        }
        return [{"type": "function", "function": function}]

    def _messages(self, stem: str, **slots: object) -> tuple[Message, ...]:
        content = self.templates[stem].fill(**slots)
        return (*self.examples.get(stem, ()), {"role": "user", "content": content})


@lru_cache(maxsize=32)
def load(name_or_folder: str, tool_format: ToolFormat) -> PromptSet:
    """Reads a shipped set by its name (``default``, ``few_shot``, ..), or a folder.

    Raises:
      UserError: unknown set or format, a missing file, an unknown or missing slot, an
        example file that is not a list of messages.
    """
    if tool_format not in TOOL_FORMATS:
        raise UserError(
            f"tool format {tool_format!r}: unknown: use {', '.join(TOOL_FORMATS)}"
        )
    shipped = Path(__file__).parent / name_or_folder
    folder = shipped if _is_set_name(name_or_folder) else Path(name_or_folder)
    try:
        there = folder.is_dir()
    except OSError:  # such as a name that is too long for one
        there = False
    if not there:
        raise UserError(
            f"prompt set {name_or_folder!r}: not a shipped set and not a folder: "
            f"use one of {', '.join(shipped_sets())}, or the path of a folder"
        )
    templates = {
        stem: read_template(
            _file(folder, stem.format(format=tool_format)),
            *slots,
            verdict=stem in _JUDGE_FILES,
        )
        for stem, slots in SLOTS.items()
    }
    examples = {}
    for stem in _EXAMPLES:
        path = folder / "examples" / f"{stem.format(format=tool_format)}.json"
        if path.is_file():
            examples[stem] = _load_examples(path)
    return PromptSet(
        name_or_folder,
        tool_format,
        MappingProxyType(templates),
        MappingProxyType(examples),
    )


def _file(folder: Path, name: str) -> Path:
    """A prompt's file; what a set of an older form lacks is the default's."""
    own = folder / f"{name}.txt"
    if name.startswith(_NEWER) and not own.is_file():
        return Path(__file__).parent / "default" / own.name
    return own


def shipped_sets() -> list[str]:
    """Names of the sets in the package."""
    return sorted(
        path.name
        for path in Path(__file__).parent.iterdir()
        if (path / "rubric.txt").is_file()
    )


def _is_set_name(name: str) -> bool:
    return bool(re.fullmatch(r"\w+", name)) and name in shipped_sets()


def _load_examples(path: Path) -> tuple[Message, ...]:
    try:
        messages = json.loads(read_text(path))
        # An escape may be half a surrogate pair, which no request can hold.
        json.dumps(messages, ensure_ascii=False).encode()
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        half = isinstance(error, UnicodeEncodeError)
        why = "half a surrogate pair" if half else first_line(error)
        raise UserError(f"{path}: not JSON ({why}): correct it") from error
    if not isinstance(messages, list) or not all(
        isinstance(message, dict)
        and message.get("role") in ("user", "assistant", "tool", "system")
        and isinstance(message.get("content"), str)
        for message in messages
    ):
        raise UserError(f'{path}: expected a list of {{"role": .., "content": ..}}')
    return tuple(messages)
