"""Benchmarks, models and a judge that a test scripts, around the real comparison."""

import contextlib
import json
import re
from dataclasses import replace

from scope_jax.evaluation import compare, results
from scope_jax.evaluation.comparison import Comparison, read_rows
from scope_jax.evaluation.entries import Entry
from scope_jax.evaluation.judges import JudgeSpec
from scope_jax.inference.chat import ChatConfig
from scope_jax.method.solver import LengthConfig
from tests.scope_jax.selfplay.scripted import ScriptedPlayers, settings

NUMBER = re.compile(r"number (\d+)")


def number_of(text):
    return int(NUMBER.findall(text)[-1])


def files(folder, count=8):
    """Files of five benchmarks, ``count`` rows each; what ``--benchmark`` names."""
    rows = {
        "nq": [
            {"question": f"Is it number {n}?", "data_source": "nq"}
            | {"golden_answers": [f"it is {n}", f"{n}"]}
            for n in range(count)
        ],
        "researchrubrics": [
            {"prompt": f"Report on number {n}."}
            | {
                "rubrics": [
                    {"criterion": f"c{i}", "weight": w, "axis": "a"}
                    for i, w in enumerate((2, 1, -1))
                ]
            }
            for n in range(count)
        ],
        "researchqa": [
            {"query": f"Why number {n}?"}
            | {"rubric": [{"rubric_item": f"q{i}", "type": "t"} for i in range(2)]}
            for n in range(count)
        ],
        "wildbench": [
            {"conversation_input": [{"role": "user", "content": f"Tell number {n}."}]}
            | {"checklist": ["Is it told?"]}
            for n in range(count)
        ],
        "arena_hard_cw": [
            {"uid": f"u{n}", "prompt": f"Sing number {n}.", "baseline_answer": "la"}
            for n in range(count)
        ],
    }
    given = []
    for name, each in rows.items():
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in each))
        given.append(f"{name}={file}")
    return given


def said_by_judge(messages):
    """A verdict that depends on the question's number and on the answer alone."""
    text = "\n".join(message["content"] for message in messages)
    number, good = number_of(text), "better" in text
    if "[[A>>B]]" in text:
        return "[[A>B]]" if number % 2 else "[[B>A]]"
    if "Write one line for each question" in text:
        return "Completely\nMostly" if good else "Barely\nNot at all"
    if '"criteria_met"' in text:
        met = (number + good + ("weight 2" in text)) % 2
        return json.dumps({"criteria_met": bool(met)})
    if '"score": 1 to' in text:
        return json.dumps({"score": 1 + (number + 3 * good) % 10})
    return f"<score>{(number + good) % 2}</score>"


class Players(ScriptedPlayers):
    """Models by name; ``better`` and ``worse`` search once, then answer so."""

    def __init__(self):
        length = LengthConfig(soft=64, hard=128)
        base = settings()
        super().__init__(replace(base, solver=replace(base.solver, length=length)))
        self.name, self.answered, self.dies_after = "", 0, None

    async def policy(self, request):
        if self.dies_after is not None and self.answered >= self.dies_after:
            raise KeyboardInterrupt
        text = self.renderer.decode(request.ids)
        raw = "Sing number" in text
        if not raw and "<information>" not in text.rpartition("number")[2]:
            return self.completion(f"<search>{self.name} wants it</search>")
        self.answered += 1
        said = f"{self.name} number {number_of(text)}"
        return self.completion(said if raw else f"<answer>{said}</answer>")


def entry(name):
    return Entry(
        name=name,
        path=f"folder/{name}",
        tokenizer="none",
        tool_format="search_r1",
        prompts="default",
        template=None,
    )


def script(monkeypatch, players):
    """Puts scripted players in the place of weights and of the inference process."""
    import asyncio
    from types import SimpleNamespace

    @contextlib.contextmanager
    def playing(config, one, search):
        players.name = one.name
        yield players.world

    @contextlib.contextmanager
    def searching(config, told, searches):
        yield SimpleNamespace(search=players.search, run=asyncio.run)

    monkeypatch.setattr(compare, "playing", playing)
    monkeypatch.setattr(compare, "_searching", searching)
    monkeypatch.setattr(compare, "keep_programs", lambda: None)
    monkeypatch.setattr("scope_jax.evaluation.players.identity", lambda one: one.name)
    monkeypatch.setattr("scope_jax.evaluation.players.day_shown", lambda *_: {})


def quick(url, **changes):
    """A judge behind a chat server that is asked again at once."""
    fast = {"backoff": 0.001, "rate_pause": 0.001, "timeout": 60.0}
    return ChatConfig(**{"url": url, "model": "judge", **fast, **changes})


def told(
    folder, url, *, names=("worse", "better"), count=8, judge="one", ask=None, **changes
):
    """A comparison of scripted models with a hosted judge, asked as ``ask`` says."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    chat = quick(url, **(ask or {}))
    spec = JudgeSpec(
        name=judge, chat=chat, temperature=chat.temperature, max_tokens=chat.max_tokens
    )
    changes = {"rows": read_rows(files(folder / "data", count)), **changes}
    return Comparison(
        entries=[entry(name) for name in names],
        judge=spec,
        how=results.Bootstrap(resamples=200, seed=0),
        out=folder / "out",
        **changes,
    )


def written(folder, judge="one"):
    """All that depends on answers and verdicts alone, as bytes, by name."""
    top = folder / "out" / "scores" / judge
    return {
        str(file.relative_to(top)): file.read_bytes()
        for file in sorted(top.rglob("*"))
        if file.is_file() and file.name not in ("cost.json", "SHA256SUMS")
    }
