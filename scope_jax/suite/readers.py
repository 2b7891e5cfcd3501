"""The public files of the paper's fifteen benchmarks, read into rows (spec 13.1).

A file whose columns are others is refused with one line that says what is expected. A
row without rubrics stays: its score is 0, as the formulas say.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import UserError
from scope_jax.suite import files, rows
from scope_jax.suite.rows import Item, Row

PLAN = "Write a research plan for the goal below: concise, well thought out, and such "
PLAN += "that it can be carried out.\n\n"
"""What comes before the goal of a research plan."""

SHORT = {
    "nq": "nq",
    "triviaqa": "triviaqa",
    "popqa": "popqa",
    "hotpotqa": "hotpotqa",
    "2wikimultihopqa": "2wiki",
    "musique": "musique",
    "bamboogle": "bamboogle",
}
"""``data_source`` in the file of the seven short-form sets -> name of the source."""

Found = Sequence[tuple[str, Mapping[str, Any]]]
"""(where it stands, row) of each row of the files of a benchmark."""


@dataclass(frozen=True)
class Benchmark:
    """How the files of a benchmark are read.

    Attributes:
      form: of a row, in words.
      columns: which some row must have.
      read: makes rows.
    """

    form: str
    columns: tuple[str, ...]
    read: Callable[[Found, str], list[Row]]


def read(name: str, paths: Sequence[Path]) -> list[Row]:
    """The rows of a benchmark, from one file or several, in their order.

    Args:
      name: one of ``BENCHMARKS``, of ``SHORT``'s sources, or ``rows`` (our own form).
      paths: its files.

    Raises:
      UserError: an unknown name, a file that is missing, or rows of another form.
    """
    wanted = name if name in SHORT.values() else ""
    chosen = BENCHMARKS.get("short_form" if wanted else name)
    if chosen is None:
        known = ", ".join((*BENCHMARKS, *SHORT.values()))
        raise UserError(f"--benchmark {name}: unknown: use one of {known}")
    found = [
        (f"{path}: row {number}", row)
        for path in paths
        for number, row in enumerate(files.read(path), 1)
    ]
    columns = {column for _, row in found for column in row}
    missing = [column for column in chosen.columns if column not in columns]
    if missing:
        named = ", ".join(map(str, paths))
        raise UserError(
            f"{named}: no column {', '.join(missing)}: {name} expects {chosen.form}"
        )
    made = chosen.read(found, chosen.form)
    if wanted:
        made = [row for row in made if row.source == wanted]
    if not made:
        named = ", ".join(map(str, paths))
        raise UserError(f"{named}: no row of {name}: {name} expects {chosen.form}")
    return made


def _items(where: str, value: Any, form: str, names: tuple[str, ...]) -> list[Item]:
    """Items out of a list of objects.

    Args:
      names: of the fields that hold text, weight and kind; an empty one is absent.
    """
    if value is None:
        return []
    if not isinstance(value, list):
        raise UserError(f"{where}: a rubric that is no list: expected {form}")
    text, weight, kind = names
    made = []
    for each in value:
        if not isinstance(each, Mapping):
            raise UserError(
                f"{where}: a rubric item that is no object: expected {form}"
            )
        shown = each.get(kind) if kind else ""
        shown = ", ".join(map(str, shown)) if isinstance(shown, list) else shown
        made.append(
            Item(
                rows.text(where, each, text, form),
                rows.number(where, each.get(weight), weight, form) if weight else 1.0,
                str(shown or ""),
            )
        )
    return made


def _researchqa(found: Found, form: str) -> list[Row]:
    return [
        Row(
            source="researchqa",
            judge="coverage",
            prompt=rows.text(where, row, "query", form),
            items=tuple(
                _items(where, row.get("rubric"), form, ("rubric_item", "", "type"))
            ),
        )
        for where, row in found
    ]


def _sqa(found: Found, form: str) -> list[Row]:
    return [
        Row(
            source="sqa_cs_v2",
            judge="quality",
            prompt=rows.text(where, row, "question", form),
        )
        for where, row in found
    ]


def _drb(found: Found, form: str) -> list[Row]:
    return [
        Row(
            source="drb_race",
            judge="report",
            prompt=rows.text(
                where, row, "prompt" if row.get("prompt") else "topic", form
            ),
        )
        for where, row in found
    ]


def _researchrubrics(found: Found, form: str) -> list[Row]:
    names = ("criterion", "weight", "axis")
    return [
        Row(
            source="researchrubrics",
            judge="criteria",
            prompt=rows.text(where, row, "prompt", form),
            items=tuple(_items(where, row.get("rubrics"), form, names)),
        )
        for where, row in found
    ]


def _plans(found: Found, form: str) -> list[Row]:
    return [
        Row(
            source="research_plan_gen",
            judge="criteria",
            prompt=PLAN + rows.text(where, row, "Goal", form),
            items=tuple(
                Item(text)
                for text in rows.texts(where, row.get("Rubric") or [], "Rubric", form)
            ),
        )
        for where, row in found
    ]


def _healthbench(found: Found, form: str) -> list[Row]:
    names = ("criterion", "points", "tags")
    return [
        Row(
            source="healthbench",
            judge="dialogue_criteria",
            messages=rows.conversation(where, row.get("prompt")),
            opening="dialogue",
            items=tuple(_items(where, row.get("rubrics"), form, names)),
        )
        for where, row in found
    ]


def _wildbench(found: Found, form: str) -> list[Row]:
    return [
        Row(
            source="wildbench",
            judge="checklist",
            messages=rows.conversation(where, row.get("conversation_input")),
            opening="dialogue",
            items=tuple(
                Item(text)
                for text in rows.texts(
                    where, row.get("checklist") or [], "checklist", form
                )
            ),
        )
        for where, row in found
    ]


def _arena(found: Found, form: str) -> list[Row]:
    """Questions, and the baseline's answers by ``uid``: in their rows or a file."""
    answers: dict[str, str] = {}
    questions = []
    for where, row in found:
        uid = rows.text(where, row, "uid", form)
        if "messages" in row:
            answers[uid] = _last_answer(where, row["messages"], form)
        elif row.get("category", "creative_writing") == "creative_writing":
            questions.append((where, uid, row))
    made = []
    for where, uid, row in questions:
        baseline = row.get("baseline_answer", answers.get(uid))
        if not isinstance(baseline, str):
            raise UserError(
                f"{where}: no baseline's answer to {uid}: give a second file behind a "
                f"comma: arena_hard_cw expects {form}"
            )
        made.append(
            Row(
                source="arena_hard_cw",
                judge="pairwise",
                prompt=rows.text(where, row, "prompt", form),
                opening="raw",
                baseline=baseline,
            )
        )
    return made


def _last_answer(where: str, messages: Any, form: str) -> str:
    """The assistant's last message, which may hold its text as ``answer``."""
    said = messages[-1] if isinstance(messages, list) and messages else None
    content = said.get("content") if isinstance(said, Mapping) else None
    content = content.get("answer") if isinstance(content, Mapping) else content
    if not isinstance(content, str):
        raise UserError(f"{where}: messages without an answer: expected {form}")
    return content


def _short(found: Found, form: str) -> list[Row]:
    made = []
    for where, row in found:
        golds = row.get("golden_answers")
        if golds is None:
            truth = row.get("reward_model")
            for key in ("ground_truth", "target"):
                truth = truth.get(key) if isinstance(truth, Mapping) else None
            golds = truth
        source = rows.text(where, row, "data_source", form)
        source = source.removeprefix("searchR1_")
        named = rows.texts(where, golds, "golden_answers", form)
        if not named:
            raise UserError(f"{where}: no right answer: expected {form}")
        made.append(
            Row(
                source=SHORT.get(source, source),
                judge="equivalence",
                prompt=rows.text(where, row, "question", form),
                golds=tuple(named),
            )
        )
    return made


def _own(found: Found, form: str) -> list[Row]:
    return [rows.from_json(where, row) for where, row in found]


BENCHMARKS: dict[str, Benchmark] = {
    "researchqa": Benchmark(
        '{"query": "..", "rubric": [{"rubric_item": "..", "type": ".."}]}',
        ("query", "rubric"),
        _researchqa,
    ),
    "sqa_cs_v2": Benchmark('{"question": ".."}', ("question",), _sqa),
    "drb_race": Benchmark('{"prompt": ".."} or {"topic": ".."}', (), _drb),
    "researchrubrics": Benchmark(
        '{"prompt": "..", "rubrics": [{"criterion": "..", "weight": 1, "axis": ".."}]}',
        ("prompt", "rubrics"),
        _researchrubrics,
    ),
    "research_plan_gen": Benchmark(
        '{"Goal": "..", "Rubric": ["..", ".."]}', ("Goal", "Rubric"), _plans
    ),
    "healthbench": Benchmark(
        '{"prompt": [{"role": "user", "content": ".."}], '
        '"rubrics": [{"criterion": "..", "points": 5, "tags": [".."]}]}',
        ("prompt", "rubrics"),
        _healthbench,
    ),
    "wildbench": Benchmark(
        '{"conversation_input": [{"role": "user", "content": ".."}], '
        '"checklist": ["..", ".."]}',
        ("conversation_input", "checklist"),
        _wildbench,
    ),
    "arena_hard_cw": Benchmark(
        '{"uid": "..", "prompt": ".."} and in a second file {"uid": "..", "messages": '
        '[.., {"role": "assistant", "content": {"answer": ".."}}]}',
        ("uid", "prompt"),
        _arena,
    ),
    "short_form": Benchmark(
        '{"question": "..", "golden_answers": [".."], "data_source": "nq"}, or '
        '"reward_model": {"ground_truth": {"target": [".."]}} for the answers',
        ("question", "data_source"),
        _short,
    ),
    "rows": Benchmark(rows.FORM, ("source",), _own),
}
"""By the name that a command gives; ``short_form`` has seven sources."""
