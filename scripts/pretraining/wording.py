"""What is said in the small world's transcripts, in every tool format."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from scope_jax.method.types import ToolFormat
from scope_jax.small_world.tasks import WorldTask, with_article
from scope_jax.small_world.world import VALUE_KINDS, Fact

Message = dict[str, str]

DONT_KNOW = "I do not know."
GENERIC_RUBRIC = "Identifies what is asked."


@dataclass
class Transcript:
    """One conversation; the assistant turns listed in ``trained`` are in the loss."""

    job: str
    tool_format: ToolFormat
    messages: list[Message]
    trained: list[int] = field(default_factory=list)

    def say(self, content: str, *, trained: bool = True) -> None:
        """Append an assistant turn."""
        if trained:
            self.trained.append(len(self.messages))
        self.messages.append({"role": "assistant", "content": content})

    def hear(self, *messages: Message) -> None:
        """Append user or tool turns."""
        self.messages += messages


def document_text(title: str, text: str) -> str:
    """A document as a Challenger reads it (spec 11.1)."""
    return f"(Title: {title})\n{text}\n"


def passages_text(passages: Sequence[tuple[str, str]]) -> str:
    """Search results as (title, text) pairs are shown (spec 2.4)."""
    shown = (
        f"Doc {i} (Title: {title})\n{text}\n"
        for i, (title, text) in enumerate(passages, start=1)
    )
    return "\n".join(shown).strip()


def search_call(tool_format: ToolFormat, query: str) -> str:
    """A search call in the words of ``tool_format`` (spec 3.1)."""
    if tool_format == "search_r1":
        return f"<search>{query}</search>"
    if tool_format == "tool_call":
        call = {"name": "search", "arguments": {"query_list": [query]}}
        return f"<tool_call>\n{json.dumps(call)}\n</tool_call>"
    return f'<function_calls>search(query="{query}")</function_calls>'


def result_block(tool_format: ToolFormat, text: str) -> str:
    """A search result as the conversation holds it (spec 2.5)."""
    if tool_format == "tool_call":
        return json.dumps({"result": text})
    return f"<information>{text}</information>"


def result_messages(
    tool_format: ToolFormat, text: str, guidance: str = ""
) -> list[Message]:
    """The environment's turns after a search (spec 3.7)."""
    block = result_block(tool_format, text)
    if tool_format == "tool_call":
        messages = [{"role": "tool", "content": block}]
        if guidance:
            messages.append({"role": "user", "content": guidance})
        return messages
    content = f"{block}\n\n{guidance}" if guidance else block
    return [{"role": "user", "content": content}]


def look_up(tool_format: ToolFormat, name: str, via: Fact | None = None) -> str:
    """An assistant turn that searches ``name``, which the fact ``via`` has named."""
    thought = via.sentence() if via else f"Look up {name}."
    return f"<think>{thought}</think>\n{search_call(tool_format, name)}"


def write_task(task: WorldTask) -> str:
    """The Challenger's last turn: the facts that it has in mind, then the task.

    Behind one that only leads on stands what the task will call its value.
    """
    facts = []
    for subject in task.subjects:
        if subject.via:
            named = subject.via.sentence().removesuffix(".")
            facts.append(f"{named}, {with_article(VALUE_KINDS[subject.via.relation])}.")
        facts += [fact.sentence() for fact in subject.facts]
    return f"<think>{' '.join(facts)}</think>\n<task>{task.text}</task>"


def give_answer(text: str) -> str:
    """The Solver's last turn."""
    return f"<think>Enough.</think>\n<answer>{text}</answer>"


def write_rubrics(rubrics: Sequence[str]) -> str:
    """The judge's output with these rubrics."""
    lines = "".join(
        f'<rubric priority="critical">{rubric}</rubric>\n' for rubric in rubrics
    )
    return f"<rubrics>\n{lines}</rubrics>"


def scored(thought: str, met: bool) -> str:
    """A verdict of the judge: a thought that ends in yes or no, and the score.

    Without a line end between them, all that follows the deciding word is its token.
    """
    word = "yes" if met else "no"
    return f"<think>{thought}: {word}.</think><score>{met:d}</score>"


def verdict(fact: Fact, found: str | None) -> str:
    """The grader's output: the response's value beside the wanted one, then a score."""
    quote = f"{fact.entity}'s {fact.relation} is {found or 'nothing'}"
    if found is None:
        return scored(quote, False)
    return scored(f"{quote}, wanted {fact.value}", found == fact.value)


def generic_verdict(met: bool) -> str:
    """The grader's output on the generic rubric."""
    return scored("Something is stated", met)
