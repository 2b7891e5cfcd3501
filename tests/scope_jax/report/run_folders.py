"""Run folders for tests of the report: small, with the forms that a run writes."""

import base64
import gzip
import json
import re

from scope_jax.config import TrackingConfig
from scope_jax.report import answers
from scope_jax.run.tracking import Tracker
from scope_jax.system.files import write_json_lines

HOSTILE = (
    '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked=1">'
    "<!-- <script> \u202egnp.exe\u202c \u2028 \x00\x1b[31m zero\u200bwidth \ud83d "
    "شكرا </textarea></style>"
)
"""Markup, control and format characters, half a surrogate pair, text from the right."""


def solver_record(step, group, sample, *, said="an answer", trained=True):
    """A Solver's rollout; its reward, judge's and true score depend on its place."""
    score, truth = (sample % 4) / 4, ((sample + group) % 4) / 4
    record = {
        "uid": f"1/solver/{step}/{group}/{sample}",
        "group": group,
        "role": "solver",
        "reward": 0.5 + score,
        "advantage": score - 0.375,
        "finish_reason": "done",
        "messages": [
            {"role": "user", "content": f"Answer: task {group} of step {step}"},
            {"role": "assistant", "content": "<search>Name</search>"},
            {"role": "user", "content": "<information>Doc 1</information>"},
            {"role": "assistant", "content": said},
        ],
        "trained": [
            {"message": 1, "advantage": score - 0.375, "tokens": 5, "trained": 5}
            | {"start": 0, "end": None},
            {"message": 3, "advantage": score - 0.375, "tokens": 9, "trained": 4}
            | {"start": 0, "end": 6},
        ],
        "trace": {
            "task_uid": f"1/tasks/1/{group}/0",
            "task_type": "planning",
            "parts": {"rubric_score": score, "searches": 1.0},
            "errors": ["unclosed answer"] if sample == 1 else [],
            "why": ["rubrics: 1 of 2 met", f"reward {0.5 + score}"],
            "branch": "graded",
            "answer": said,
            "task": f"task {group}",
            "rubrics": ["Names A.", "Names B."],
            "judge": [
                {"score": 1.0, "raw": "A: yes <score>1</score>"},
                {"score": None, "raw": "hm", "asked_again_after": "hm?"},
            ],
            "conversation": [{"turn": 1, "what": "search"}, {"turn": 2, "what": "a"}],
            "truth": {
                "score": truth,
                "why": ["rubric 2: wrong, so its grade is wrong"],
                "flaws": ["wrong grade"] if score != truth else [],
            },
        },
        "metrics": {"rollout/ran_searches": 1},
        "tokens": 14,
    }
    if not trained:  # as older versions wrote it
        del record["trained"], record["advantage"]
    return record


def task_record(group, outcome, difficulty):
    """A record of task creation."""
    attempts = [
        {"answer": "a", "scores": [s], "judge": [{"score": s, "raw": "so"}]}
        for s in (0.0, 1.0)
    ]
    return {
        "uid": f"1/tasks/1/{group}/0",
        "why": ["gates: passed", outcome],
        "task": f"task {group}",
        "type": "planning",
        "messages": [{"role": "assistant", "content": "<task>"}],
        "gates": {"entity": 1},
        "gates_raw": {"entity": "clear <score>1</score>"},
        "rubrics": ["Names A."],
        "attempts": attempts,
        "difficulty": difficulty,
        "outcome": outcome,
        "truth": {"scores": [], "why": ["rubric 1: false"], "flaws": ["false rubric"]},
    }


def answered(task, sampled, greedy):
    """What an evaluation stores of a task."""

    def answer(score):
        said = [
            {"role": "user", "content": task},
            {"role": "assistant", "content": "x"},
        ]
        return {"answer": "x", "true_score": score, "searches": 1, "messages": said}

    wanted = ["X is Y."]
    return {
        "task": task,
        "wanted": wanted,
        "sampled": answer(sampled),
        "greedy": answer(greedy),
    }


def make(folder, *, steps=3, groups=2, samples=4, seed=1, said="an answer", config=()):
    """A run of one iteration, with metrics, rollouts, tasks and an evaluation."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"name": "ci", "seed": seed, "tasks": {"low": 0.2, "high": 0.8}}
    (folder / "config.json").write_text(json.dumps(settings | dict(config)))
    stages = {
        "iter_1/solver": {"status": "done", "unix": 2.0},
        "evaluation": {"status": "done"},  # scores again what was scored before
    }
    (folder / "manifest.json").write_text(json.dumps({"stages": stages, "began": 1.0}))
    with Tracker(folder, TrackingConfig(tensorboard=False)) as tracker:
        for step in range(1, steps + 1):
            metrics = {f"perf/metric_{i}": float(i) for i in range(12)}
            metrics |= {"reward/mean": seed * step / 4, "time/rollout": 2.0}
            metrics |= {"reward/rubric_score": step / 4, "truth/score": step / 5}
            tracker.log(metrics, iteration=1, stage="solver", step=step)
    rollouts = folder / "rollouts" / "iter_1"
    kinds = [("kept", 0.5), ("too_hard", 0.1), ("gates_failed", None)]
    tasks = [task_record(i, *kinds[i % 3]) for i in range(max(groups, 3))]
    write_json_lines(rollouts / "tasks" / "step_0001.jsonl", tasks)
    for step in range(1, steps + 1):
        played = [
            solver_record(step, group, sample, said=said)
            for group in range(groups)
            for sample in range(samples)
        ]
        file = rollouts / "solver" / f"step_{step:04d}.jsonl"
        # ASCII: a run never writes half a surrogate pair, other programs do.
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(one) + "\n" for one in played))
    scored = folder / "eval" / "small_world"
    for name, gain in (("base", 0.0), ("iter_1", 0.25)):
        each = [answered(f"held-out {i}", i / 8 + gain, 0.5) for i in range(4)]
        write_json_lines(scored / f"{name}.jsonl", each)
    metric = "eval/sampled/true_score"
    scores = {
        name: {metric: value, f"{metric}_stderr": 0.05, f"{metric}_n": 4.0}
        for name, value in (("base", 0.1875), ("iter_1", 0.4375))
    }
    (scored / "scores.json").write_text(json.dumps(scores))
    return folder


def embedded(text):
    """(data, records by row number) of a page, as its script reads them."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text)
    about = json.loads(found[1])
    chunks = re.findall(r'<script type="text/plain" id="part-\d+">(.*?)</script>', text)
    records = {}
    for rows, chunk in zip(about["rollouts"].get("parts", []), chunks, strict=True):
        records |= zip(
            rows, json.loads(gzip.decompress(base64.b64decode(chunk))), strict=True
        )
    return about, records


def compared(file):
    """The page about two models on two questions of one benchmark."""

    def record(model, number, score):
        said = f"{model} says {number}"
        return {
            "uid": f"eval/nq/{model}/{number}",
            "model": model,
            "score": score,
            "task": f"question {number}",
            "answer": said,
            "searches": 1,
            "tokens": 5,
            "errors": [],
            "messages": [
                {"role": "user", "content": f"question {number}"},
                {"role": "assistant", "content": said},
            ],
            "rubrics": ["means one of the right answers"],
            "judge": [{"label": f"{score:g}", "raw": f"<score>{score:g}</score>"}],
            "why": [f"score {score:g}"],
            "wanted": ["right: 42"],
        }

    metrics = {"nq": 0.5, "nq_n": 2.0, "nq_low": 0.3, "nq_high": 0.6}
    about = {
        "models": {"old": metrics, "new": metrics | {"nq": 0.75}},
        "gains": {"new": {"nq": 0.25, "nq_n": 2.0, "nq_low": 0.1, "nq_high": 0.3}},
        "baseline": "old",
        "judge": "some judge",
        "remarks": ["old, nq: 2 answers, 1 calls of the judge failed"],
    }
    pairs = [[record("old", n, 0.5), record("new", n, 0.5 * (n + 1))] for n in (0, 1)]
    return answers.write(file, about, {"nq": pairs})
