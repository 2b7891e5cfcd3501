"""The page of the other papers' methods: true score after one iteration, and tokens."""

from collections.abc import Sequence
from pathlib import Path

from ablation import collect
from ablation.arms import METHODS
from ablation.collect import WORD, Summary, Value
from models.errors import UserError
from scope_jax.system.files import write_text

DEFAULT = "default"
HEAD = """# Other papers' methods in the small world

Written by `python scripts/ablate.py --study methods --collect` from the summaries in
`{folder}`. Each arm is one option of [the options' page](../options.md), for the
Solver, in one iteration that is the same otherwise, sampled tokens included: where an
option samples more in a step, its Solver takes fewer steps (how many was fixed on a
seed of which nothing is shown here). Numbers are means over seeds; behind ± stands half
of a 95% interval over seeds (Student t). True scores are those of {count} held-out
tasks; differences are taken seed by seed.
"""
TOKENS = """## Steps and sampled tokens, in thousands

`rollout` is the trainer's engine, `judge` the inference process's: gates, rubrics,
grades, and the base Solver's attempts at the Challenger's tasks.
"""


def page(summaries: Sequence[Summary], folder: str) -> str:
    """The page in Markdown.

    Args:
      summaries: of runs of ``METHODS``.
      folder: where they lie, for the reader.
    """
    arms = collect.by_arm(summaries)
    counts = sorted({one["evaluation"]["count"] for one in summaries})
    parts = [HEAD.format(folder=folder, count=", ".join(map(str, counts)))]
    parts.append("".join(f"- `{name}`: {METHODS[name].about}\n" for name in arms))
    for kind, word in WORD.items():
        after = collect.score("iter_1", kind)
        less = collect.against(arms.get(DEFAULT, ()), after)
        columns = {"before": collect.score("base", kind), "after": after}
        columns[f"after - {DEFAULT}"] = less
        parts.append(f"## True score, {word}\n")
        parts.append(collect.table(arms, columns, (f"after - {DEFAULT}",)))
    engines = sorted({name for one in summaries for name in one["sampled_tokens"]})
    columns = {"Solver steps": lambda one: one["iterations"][0]["solver"]["steps"]}
    columns |= {name: _tokens((name,)) for name in engines}
    columns["together"] = _tokens(engines)
    parts += [TOKENS, collect.table(arms, columns)]
    commits = sorted({one["commit"] for one in summaries})
    parts.append(f"Commits: {', '.join(commits)}.\n")
    return "\n".join(parts)


def write(summaries: Sequence[Summary], folder: Path) -> list[Path]:
    """Writes the page beside the folder of the summaries; returns its path.

    Raises:
      UserError: there is no summary, or one of another study.
    """
    if not summaries:
        raise UserError(
            f"{folder}: holds no summary: run scripts/ablate.py --study methods first"
        )
    for one in summaries:
        if one["arm"] not in METHODS:
            raise UserError(f"{folder}: {one['arm']} is no arm of this study: move it")
    path = folder.parent / "methods.md"
    write_text(path, page(summaries, folder.name))
    return [path]


def _tokens(engines: Sequence[str]) -> Value:
    return lambda one: sum(one["sampled_tokens"].get(e, 0.0) for e in engines) / 1000
