"""What a run's models sampled, as token ids with all that stood before them.

A run folder keeps conversations and the judge's words as text. They are rendered and
encoded anew with the run's tokenizer, template and prompts. That is how a tokenizer
spells a text; a model may have spelled it otherwise, with more tokens, so the number of
tokens that were sampled, which a rollout does keep, says how close the ids come. The
conversations of difficulty rollouts are not kept, only their answers and grades.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models import hf
from models.chat import ChatRenderer
from models.errors import UserError
from scope_jax import formats, judge, prompts
from scope_jax.demo import assets
from scope_jax.formats import Message
from scope_jax.types import Rubric

KINDS = {"challenger": "challenger", "tasks": "task", "solver": "solver"}


@dataclass(frozen=True)
class Sampled:
    """One completion.

    Attributes:
      role: who spoke.
      ids: its prompt's ids and its own, which begin at ``start``.
    """

    role: str
    temperature: float
    ids: tuple[int, ...]
    start: int


class Recorded:
    """A run folder's records.

    Raises:
      UserError: the folder holds none.
    """

    def __init__(self, folder: Path):
        self._files = sorted(folder.glob("rollouts/*/*/step_*.jsonl"))
        if not self._files:
            raise UserError(
                f"--rollouts {folder}: holds no rollouts/*/*/step_*.jsonl: name the "
                "folder of a run"
            )
        # Not as a Config: a run of an older version is as good.
        self._config = json.loads((folder / "config.json").read_text())
        model = self._config["model"]
        path = assets.model_path() if model["path"] == "demo" else model["path"]
        self._renderer = ChatRenderer.from_tokenizer(
            hf.load_tokenizer(path), template=model["template"]
        )
        self._format = self._config["tool_format"]
        self._prompts = prompts.load(self._config["prompts"], self._format)

    def completions(self) -> Iterator[tuple[str, int, list[Sampled]]]:
        """Of every record: stage, tokens noted as sampled (0: none), completions."""
        for file in self._files:
            stage = file.parent.name
            # Not splitlines: models write line separators that JSON leaves as they are.
            for line in file.read_text(encoding="utf-8").split("\n"):
                if line:
                    record = json.loads(line)
                    found = [*self._turns(stage, record), *self._judged(stage, record)]
                    yield stage, record.get("tokens", 0), found

    def _turns(self, stage: str, record: dict[str, Any]) -> Iterator[Sampled]:
        """The turns of the policy, without a prompt set's example turns."""
        messages = record["messages"]
        if stage == "solver":
            role, opening = "Solver", self._prompts.solver("", 1)
        else:
            role, opening = "Challenger", self._prompts.challenger("", "planning", 1)
        part = self._config["tasks" if stage == "tasks" else f"{stage}_train"]
        sampling, tools = part["sampling"], self._prompts.tools()
        stops = formats.stop_strings(KINDS[stage], self._format)
        for index in range(len(opening), len(messages)):
            if messages[index]["role"] == "assistant":
                text = formats.message_text(messages[index])
                yield self._sampled(
                    role,
                    sampling["temperature"],
                    self._renderer.prompt_ids(messages[:index], tools),
                    text,
                    sampling["max_new_tokens"] if not text.endswith(stops) else 0,
                )

    def _judged(self, stage: str, record: dict[str, Any]) -> Iterator[Sampled]:
        """What the judge said of the record's task and answers."""
        trace = record.get("trace", record)
        settings, task = self._config["judge"], trace.get("task", "")
        for name, said in (trace.get("gates_raw") or {}).items():
            asked = self._prompts.gate(name, task=task, document=self._source(record))
            limit = settings["gate_tokens"]
            yield self._said("gates", settings["gate_temperature"], asked, said, limit)
        if said := trace.get("rubrics_raw"):
            passages = [_result(message) for message in record["messages"]]
            documents = judge.documents_text(self._source(record), passages)
            kind = trace["type" if stage == "tasks" else "task_type"]
            asked = self._prompts.rubric(task, kind, documents)
            limit = settings["rubric_tokens" + ("_tasks" if stage == "tasks" else "")]
            heat = settings["rubric_temperature"]
            yield self._said("rubrics", heat, asked, said, limit)
        heat, limit = settings["grade_temperature"][stage], settings["grade_tokens"]
        for graded in (trace, *trace.get("attempts", ())):
            conversations = judge.grade_prompts(
                self._prompts,
                task,
                graded.get("answer", ""),
                [Rubric(text) for text in trace.get("rubrics", ())],
                thinking=settings["thinking"],
            )
            # Without an answer there are no grades.
            for asked, grade in zip(
                conversations, graded.get("judge", ()), strict=False
            ):
                if first := grade.get("asked_again_after"):
                    yield self._said("grades", heat, asked, first, limit)
                    asked = self._prompts.grade_retry(asked, first)
                yield self._said("grades", heat, asked, grade["raw"], limit)

    def _said(
        self, what: str, heat: float, asked: Sequence[Message], said: str, limit: int
    ) -> Sampled:
        ids = self._renderer.prompt_ids(asked)
        return self._sampled(f"judge, {what}", heat, ids, said, limit)

    def _sampled(
        self, role: str, heat: float, prompt: list[int], text: str, limit: int
    ) -> Sampled:
        """``limit``: it ended by a stop id if it is shorter than this."""
        ids = self._renderer.encode_text(text)
        end = self._renderer.stop_ids[:1] if len(ids) < limit else ()
        return Sampled(role, heat, (*prompt, *ids, *end), len(prompt))

    def _source(self, record: dict[str, Any]) -> str:
        """The document that a Challenger's opening message shows."""
        template = self._prompts.templates["challenger_{format}"].text
        before, _, behind = template.partition("{source_document}")
        opening = self._prompts.challenger("", "planning", 1)
        text = record["messages"][len(opening) - 1]["content"]
        text = text.partition(before.rpartition("}")[2])[2]
        behind = behind.partition("{")[0]
        return text.partition(behind)[0] if behind else text


def _result(message: Message) -> str:
    """The search results in a message; the empty string if it has none."""
    if message["role"] == "tool":
        return json.loads(message["content"])["result"]
    found = re.search(r"<information>(.*?)</information>", message["content"], re.S)
    return found[1] if found else ""
