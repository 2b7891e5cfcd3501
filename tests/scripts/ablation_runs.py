"""Run folders as train.py and eval.py leave them, without either."""

import json
import math

from ablation import summaries
from scope_jax.run import tracking

SCORES = {"base": (0.45, 0.47), "iter_1": (0.8, 0.6), "iter_2": (0.8, 0.7)}


def train(run, *, start=1000.0, scale=1.0):
    """Writes what training a run writes; a stage of ``scale`` times 10 s a step."""
    run.folder.mkdir(parents=True, exist_ok=True)
    stages, rows, now = {}, [], start
    for iteration in range(1, run.config.iterations + 1):
        for stage in summaries.STAGES:
            trained = stage == "tasks" or getattr(run.config, f"{stage}_train").steps
            for step in range(1, 7 if trained else 1):
                now += 10 * scale
                row = {"iteration": iteration, "stage": stage, "step": step}
                row |= {"time/unix": now, "reward/rubric_score": step / 10}
                row |= {"truth/score": 0.5, "perf/compilations": 3.0}
                row |= {"perf/rollout_sampled_tokens": 100.0}
                if stage == "tasks":
                    row |= {"time/batch": 10 * scale, "time/waited_for_writing": 4.0}
                else:
                    row |= {"time/rollout": 7 * scale, "time/update": 3 * scale}
                rows.append(row)
            stages[f"iter_{iteration}/{stage}"] = {"status": "done", "unix": now + 1}
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (run.folder / "metrics.jsonl").write_text(lines)
    (run.folder / "manifest.json").write_text(json.dumps({"stages": stages}))
    assert tracking.read(run.folder) == rows


def evaluate(run, count, scores=None):
    """Writes what an evaluation writes."""
    names, found = summaries.EVALUATION, {}
    for solver, (greedy, sampled) in (scores or SCORES).items():
        values = {"greedy": greedy, "sampled": sampled, "n": count}
        values |= {"greedy_stderr": 0.016, "sampled_stderr": math.nan}
        found[solver] = {names[short]: value for short, value in values.items()}
        found[solver]["eval/answered"] = 1.0
    file = run.folder / "eval" / "small_world" / "scores.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found))


def summary_of(arm, seed, sampled=(0.47, 0.6, 0.7), *, n=450, until=(100.0, 200.0)):
    """A summary with these scores of base, iter_1 and iter_2 at T=1."""
    solvers = ["base", *(f"iter_{i}" for i in range(1, len(sampled)))]
    stage = {"steps": 8, "mean": {"reward/rubric_score": 0.5}}
    stage["last"] = {"truth/correlation": 0.8}
    iterations = [
        {"iteration": i, "challenger": stage, "tasks": {}, "solver": stage}
        for i in range(1, len(sampled))
    ]
    return {
        "arm": arm,
        "seed": seed,
        "commit": "abc1234",
        "config": "tiny",
        "settings": {"iterations": 4, "seed": seed},
        "evaluation": {"count": n, "split": "test"},
        "scores": {
            name: {"sampled": one, "greedy": one, "n": n}
            for name, one in zip(solvers, sampled, strict=True)
        },
        "iterations": iterations,
        "seconds": {
            "stages": {},
            "until": {f"iter_{i}": found for i, found in enumerate(until, 1)},
        },
    }
