"""One rollout of a report: why it got its reward, and everything that was said.

Written for a reader who has not seen the code: the reasons first, then the grades as a
table, then the conversation, then everything the judge wrote.
"""

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scope_jax.run import tracking

LONGEST = 6000
"""Characters of one message that are shown."""

STYLE = """
details{margin:.5rem 0;border:1px solid #d5dbe1;border-radius:6px;padding:.4rem .8rem}
summary{cursor:pointer;font-weight:600}details details summary{font-weight:400}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f4f6f8;padding:.5rem .7rem;
border-left:4px solid #9aa7b4;margin:.4rem 0;font:13px/1.45 ui-monospace,monospace}
pre.assistant{border-color:#2a6fdb;background:#eef4fd}pre.tool{border-color:#b07d1a}
.role{color:#53606c;font-size:12px;margin-top:.6rem}
ol.why{background:#f0f7f0;border-left:4px solid #3d8b40;margin:.4rem 0;
padding:.5rem .7rem .5rem 2.2rem}
table.grades td,table.grades th{text-align:center}
table.grades td:first-child,table.grades th:first-child{text-align:left}
.yes{color:#2a7a2d}.no{color:#b3261e}.unread{color:#8a6d00}
"""


def reward_of(rollout: Mapping[str, Any]) -> float:
    """The reward of a stored rollout; 0 where none was noted."""
    return float(rollout.get("reward", rollout.get("difficulty")) or 0.0)


def rollout_html(rollout: Mapping[str, Any]) -> str:
    """A stored rollout, or a record of task creation, as one block to unfold."""
    trace = rollout.get("trace", rollout)  # task creation has no trace beside itself
    what = rollout.get("outcome", "reward")
    title = f"{what} {tracking.format_number(reward_of(rollout))}"
    title += f" - {rollout.get('uid', '')}"
    if trace.get("branch"):
        title += f" - {trace['branch']}"
    parts = [f"<details><summary>{escape(title)}</summary>"]
    if trace.get("why"):
        reasons = "".join(f"<li>{escape(line)}</li>" for line in trace["why"])
        parts.append(f'{_role("why")}<ol class="why">{reasons}</ol>')
    if trace.get("task"):
        parts.append(_role("the task") + pre(trace["task"]))
    parts.append(_grades(trace))
    messages = list(rollout.get("messages", ()))
    if messages:
        parts.append(_role("the conversation"))
        parts += _conversation(messages, trace.get("conversation", ()))
    words = list(_words(trace))
    if words:
        parts.append("<details><summary>everything the judge wrote</summary>")
        parts += [_role(who) + pre(said) for who, said in words]
        parts.append("</details>")
    rest = {k: v for k, v in rollout.items() if k not in ("messages", "turns", "rows")}
    stored = json.dumps(rest, indent=2, ensure_ascii=False)
    parts.append(f"<details><summary>stored record</summary>{pre(stored)}</details>")
    return "".join([*parts, "</details>"])


def pre(text: str, kind: str = "") -> str:
    """Preformatted text, its end left out where it is very long."""
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}\n... {len(text) - LONGEST:,} more characters"
    return f'<pre class="{kind}">{escape(text)}</pre>'


def escape(text: str) -> str:
    """Text as HTML shows it."""
    return html.escape(text, quote=True)


def _role(text: str) -> str:
    return f'<div class="role">{escape(text)}</div>'


def _conversation(
    messages: Sequence[Mapping[str, Any]], notes: Sequence[Mapping[str, Any]]
) -> Iterable[str]:
    """The messages; of each sampled turn what was read in it (example turns have none).

    Args:
      messages: all of them.
      notes: ``turn`` and ``what`` of every sampled turn, in order.
    """
    spoken = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    sampled = spoken[len(spoken) - len(notes) :]
    told = dict(zip(sampled, notes, strict=False))
    for index, message in enumerate(messages):
        note = told.get(index)
        yield _message(
            message, f", turn {note['turn']}: {note['what']}" if note else ""
        )


def _message(message: Mapping[str, Any], note: str) -> str:
    role = str(message.get("role", ""))
    text = str(message.get("content") or "")
    for call in message.get("tool_calls") or ():
        text += "\n" + json.dumps(call, ensure_ascii=False)
    known = role if role in ("system", "user", "assistant", "tool") else ""
    return _role(role + note) + pre(text, known)


def _graded(trace: Mapping[str, Any]) -> list[tuple[str, str, Sequence[Any]]]:
    """(who, answer, grades) of every answer that the judge was to grade."""
    if trace.get("judge"):
        return [("answer", str(trace.get("answer", "")), trace["judge"])]
    return [
        (f"rollout {number}", str(attempt.get("answer", "")), attempt["judge"])
        for number, attempt in enumerate(trace.get("attempts", ()), 1)
    ]


def _grades(trace: Mapping[str, Any]) -> str:
    """Rubrics down, answers across, a mark in each cell; the answers below."""
    rubrics, columns = trace.get("rubrics") or [], _graded(trace)
    if not rubrics:
        return ""
    rows = ["<tr><th>rubric</th>" + "".join(f"<th>{c[0]}</th>" for c in columns)]
    for index, rubric in enumerate(rubrics):
        cells = [
            _mark(grades[index]) if index < len(grades) else "<td>-</td>"
            for _, _, grades in columns
        ]
        rows.append(f"<tr><td>{escape(rubric)}</td>{''.join(cells)}")
    table = "".join(f"{row}</tr>" for row in rows)
    answers = "".join(
        _role(f"{who} answered") + pre(answer or "(no valid answer)")
        for who, answer, _ in columns
    )
    return f'{_role("grades")}<table class="grades">{table}</table>{answers}'


def _mark(grade: Mapping[str, Any]) -> str:
    score = grade["score"]
    if score is None:
        return '<td class="unread">unreadable</td>'
    if (true := grade.get("unbiased", score)) != score:
        return f'<td class="unread">{score:g}, raised from {true:g}</td>'
    kind = "yes" if score == 1 else "no" if score == 0 else ""
    return f'<td class="{kind}">{score:g}</td>'


def _words(trace: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """(about what, what the judge said), in the order it was asked."""
    for name, said in (trace.get("gates_raw") or {}).items():
        yield f"gate {name}", said
    if trace.get("rubrics_raw"):
        yield "rubrics", trace["rubrics_raw"]
    for who, _, grades in _graded(trace):
        for number, grade in enumerate(grades, 1):
            if grade.get("asked_again_after"):
                yield f"{who}, rubric {number}, unreadable", grade["asked_again_after"]
            yield f"{who}, rubric {number}", grade["raw"]
