"""The page of the options: methods of other papers that a setting turns on.

``option_rows`` says which; papers and formulas are read from the docstring of the
function that each turns on. Every setting must be one, with a value that it may have,
so that a renamed setting is an error and not an entry that is out of date.
"""

import importlib
import inspect
import json
import re
from collections.abc import Sequence
from typing import Any

from models.errors import UserError
from pages.option_rows import OPTIONS, Option
from scope_jax.config import Config
from scope_jax.system import settings

INTRODUCTION = """# Options

Written by `python scripts/docs.py` from `scripts/pages/option_rows.py` and from the
docstrings of the functions; a test fails when it is out of date. Where a row does not
say otherwise, it is off by default, and off it costs nothing. Options can be combined;
a combination that means nothing is refused in one line. Settings of a stage are given
for the Solver, `solver_train`; `challenger_train` has the same ones.

Symbols: group of G rollouts of one prompt, r reward, A advantage, t a token in the
loss, pi the policy, old the policy before the step's updates, ref the base model, sg(x)
x without a gradient, rho = pi / old of a token."""

ENDING = """## What a run says of them

`rollout/draws`, `rollout/groups_flat` and `rollout/groups_trained`: draws of a step
with `dynamic_sampling`, groups whose rewards are equal, groups trained on; all other
metrics of rollouts are about every group that was played. `reward/overlong`: mean of
the overlong term. `rollout/unmasked`: rollouts that a step trains on, with overlong
filtering or SPIRAL's filter. `loss/clip_fraction`: tokens whose ratio is clipped, with
a sequence's ratio all of its tokens. `loss/teacher_kl`: mean log-ratio of the policy to
its teacher. `loss/likelihood`: that term before its weight.

## Training on a run's answers

POP (arXiv 2604.20051) needs no update while rollouts are played. The rubric scores of
a run that is there order the answers of each task, and a Solver is trained on the best
against the worst of each, from the base model, which is the reference:

    python scripts/train.py --config tiny --run runs/tiny
    python scripts/train.py --config tiny --recipe preference \\
        --preference.run runs/tiny --run runs/tiny-dpo
    python scripts/eval.py --config tiny --recipe preference \\
        --preference.run runs/tiny --run runs/tiny-dpo

On the rollouts of one run of `tiny` (512 tasks gave 481 pairs; 30 steps, 2 minutes) the
true score on 450 test tasks went from 0.459 ± 0.019 to 0.691 ± 0.030, sampled at
temperature 1, and greedily from 0.368 ± 0.010 to 0.467 ± 0.041; that run itself reached
0.758 ± 0.045 and 0.778 ± 0.052 (150 tasks). One seed, one beta.

Optimizer, update, checkpoints, adapters and tracking are those of `solver_train`; the
second folder is like that of a run with one Solver stage, which resumes, and which
report, evaluation and export read. Nothing is sampled, and no inference process runs.

- Pairs: of each task and step, among answers that are valid and were posed plainly.
  None where the scores' standard deviation is below `preference.min_spread`, where one
  has more than `preference.max_word_gap` words more than the other, or where one does
  not fit a row. The log counts them; `pairs.jsonl` lists those that are trained on.
- Trained on are all turns of the policy, as the template writes them. They are encoded
  from their text: of unusual tokens the ids may be others than were sampled.
- `preference/accuracy`: share of a step's pairs whose better answer has gained more
  probability than the worse one; `preference/margin`: by how much, the difference of u;
  `preference/better` and `preference/worse`: u of each; `loss/total`: the pairs' loss.
- The learning rate is constant after its warm-up; POP's falls as a cosine. SPIN's
  better answers are given ones, here they are the policy's best.

## In the small world

Six of them, three seeds each, one iteration at equal sampled tokens, the judge's
included: [small_world/methods.md](small_world/methods.md), by
`python scripts/ablate.py --study methods`. Greedily all but MARS reach what one
iteration gives (0.83 to 0.86); at temperature 1:

- Dr. GRPO, NFT and POW3R: no effect beyond chance. All groups have rewards that differ,
  answers are of much the same length, and a step is one update.
- MARS is worse. The Solver searches less and less: rewards of turns are centred by the
  mean of all turns, most of which is what the answer earns, so that every search more
  adds a turn below the mean to a rollout's return.
- Votes and ZPPO are worse for what they cost. Three verdicts a grade leave 9 steps of
  16, and after 9 steps the default's rubric score is the same (0.53 and 0.54, seed
  100): the grader's noise is not what holds the Solver back. ZPPO leaves 12; of its
  groups with candidates, prompts such as this model was never trained on, 5 to 9% of
  the rubrics are met (40 to 50% plainly), so that they teach next to nothing.

## Beside TRL and verl

GSPO, Dr. GRPO, DAPO, SAPO, CISPO and RLOO agree to 1e-6, losses and gradients, with
the functions of TRL 1.16.0 and verl 0.9.1 on stored batches
(`tests/rl/learner/test_peers.py`).
Where names mean different things:

- CISPO: verl clips the ratio to [1 - low, 1 + high], as here; TRL above only, and at
  `epsilon_high` itself: its 5.0 is `clip_high` 4 here, with `clip_low` 1.
- Dual clip: 3 here and in verl, off in TRL (`delta`); nowhere with GSPO.
- GSPO: verl averages as configured, by default over tokens; here and in the paper over
  sequences unless `aggregation` is given.
- SAPO: both average over sequences whatever is configured; here it is `aggregation`.
- Dr. GRPO: verl divides by the width of the batch unless told otherwise, TRL by the
  longest completion allowed; here by `constant_length`. TRL's `dr_grpo` still divides
  by the standard deviation unless `scale_rewards` is off.
- Standard deviation: divisor G - 1 everywhere; 1e-6 is added here and in verl, 1e-4 in
  TRL."""

SECTIONS = ("Formula:", "References:")


def page(config: Config, options: Sequence[Option] = OPTIONS) -> str:
    """The page as Markdown.

    Args:
      config: any configuration; its settings are those that an option may name.
      options: the rows.

    Raises:
      UserError: a setting that there is not, a value that it may not have, a function
        that there is not, or whose docstring lacks a section.
    """
    lines = [INTRODUCTION, ""]
    lines.append("| option | setting | what it changes | formula | paper | cost |")
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for option in options:
        check(config, option)
        formula, paper = sections(option)
        given = [f"`{k}={_shown(v)}`" for k, v in option.settings.items()]
        cells = [option.name, "<br>".join(given), option.what, f"`{formula}`"]
        cells = [cell.replace("|", "\\|") for cell in (*cells, paper, option.cost)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", ENDING]) + "\n"


def check(config: Config, option: Option) -> None:
    """Makes sure that a configuration can have the option's settings.

    Raises:
      UserError: naming the setting.
    """
    data = json.loads(settings.to_json(config))
    known = {name for name, _, _ in settings.leaves(config)}
    for name, value in option.settings.items():
        if name not in known:
            why = f"{name}: no such setting"
            raise UserError(f"option {option.name}: {why}: correct OPTIONS")
        *path, last = name.split(".")
        section = data
        for part in path:
            section = section[part]
        section[last] = value
    settings.from_json(Config, json.dumps(data), source=f"option {option.name}")


def sections(option: Option) -> tuple[str, str]:
    """Formula and paper of an option, from its function's docstring.

    Raises:
      UserError: there is no such function, or it lacks a section.
    """
    module, _, name = option.function.partition(":")
    function = getattr(importlib.import_module(module), name, None)
    text = inspect.getdoc(function) if function else None
    found = [_section(text or "", heading, option.name) for heading in SECTIONS]
    for heading, body in zip(SECTIONS, found, strict=True):
        if not body:
            why = f"{option.function} has no section {heading!r} about it"
            raise UserError(f"option {option.name}: {why}: write one")
    return found[0], found[1]


def _section(docstring: str, heading: str, name: str) -> str:
    """The text of a section in one line: the option's own part, or what names none."""
    body = re.search(rf"^{heading}\n((?:  .*\n?|\n)+)", docstring, re.M)
    if not body:
        return ""
    parts: dict[str, list[str]] = {}
    part = ""
    for line in inspect.cleandoc(body[1]).splitlines():
        if begun := re.match(r"\[([^\]]+)\] (.*)", line):
            part, line = begun[1], begun[2]
        parts.setdefault(part, []).append(line.strip())
    return " ".join(parts.get(name, parts.get("", ()))).strip()


def _shown(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)
