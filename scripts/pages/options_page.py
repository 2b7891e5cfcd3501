"""The page of the options: methods of other papers that a setting turns on.

``OPTIONS`` says which; papers and formulas are read from the docstring of the function
that each turns on. Every setting must be one, with a value that it may have, so that a
renamed setting is an error and not an entry that is out of date.
"""

import importlib
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.errors import UserError
from scope_jax.config import Config
from scope_jax.system import settings

INTRODUCTION = """# Options

Written by `python scripts/docs.py` from `scripts/pages/options_page.py` and from the
docstrings of the functions; a test fails when it is out of date. Where a row does not
say otherwise, it is off by default, and off it costs nothing. Options can be combined;
a combination that means nothing is refused in one line. Settings of a stage are given
for the Solver, `solver_train`; `challenger_train` has the same ones.

Symbols: group of G rollouts of one prompt, r reward, A advantage, t a token in the
loss, pi the policy, old the policy before the step's updates, ref the base model, sg(x)
x without a gradient, rho = pi / old of a token."""

SECTIONS = ("Formula:", "References:")


@dataclass(frozen=True, kw_only=True)
class Option:
    """One row of the page.

    Attributes:
      name: of the method.
      settings: dotted name -> value; together they turn it on.
      function: ``module:name`` of what they reach; its docstring has a section
        ``Formula:`` and a section ``References:``. Where a section is about several
        options, what follows ``[name]`` is about that one only.
      what: it changes, in a few words.
      cost: what it costs beside the default.
    """

    name: str
    settings: Mapping[str, Any]
    function: str
    what: str
    cost: str = "none"


OPTIONS = (
    Option(
        name="constant length",
        settings={"solver_train.loss.aggregation": "constant_length"},
        function="rl.learner.losses:token_weights",
        what="a token's weight does not depend on how long its answer is",
    ),
    Option(
        name="clip-higher",
        settings={"solver_train.loss.clip_high": 0.28},
        function="rl.learner.losses:policy_loss",
        what="unlikely tokens may become more likely by more than others become "
        "less likely (the Solver's default)",
    ),
    Option(
        name="GSPO",
        settings={"solver_train.loss.ratio": "sequence"},
        function="rl.learner.losses:sequence_log_ratio",
        what="one probability ratio a training example (with Qwen3 a turn); matters "
        "only with several updates a step, `update.mini_batch_rows`",
    ),
    Option(
        name="SAPO",
        settings={"solver_train.loss.policy": "sapo"},
        function="rl.learner.policies:sapo_loss",
        what="a soft gate on the ratio in place of the clip",
    ),
    Option(
        name="CISPO",
        settings={"solver_train.loss.policy": "cispo"},
        function="rl.learner.policies:cispo_loss",
        what="the ratio is a clipped weight: no token loses its gradient",
    ),
    Option(
        name="entropy bonus",
        settings={"solver_train.loss.entropy_coefficient": 0.001},
        function="rl.learner.logprobs:token_logprobs",
        what="keeps the policy from becoming certain too early",
        cost="one more pass over each chunk of logits",
    ),
    Option(
        name="truncated importance sampling",
        settings={"solver_train.loss.importance_cap": 2.0},
        function="rl.learner.losses:importance_weights",
        what="corrects for what sampler and trainer compute differently",
    ),
    Option(
        name="POW3R",
        settings={"judge.weights.kind": "pow3r_instant"},
        function="scope_jax.method.rubric_weights:rubric_weights",
        what="rubrics that separate a group's answers count more in its reward",
    ),
    Option(
        name="vote",
        settings={"judge.votes": 3},
        function="scope_jax.method.judge:vote",
        what="a grade is the mean of k verdicts",
        cost="k times the grading",
    ),
    Option(
        name="different rubrics",
        settings={"judge.drop_duplicates": True},
        function="scope_jax.method.rubric_quality:without_duplicates",
        what="a rubric that the judge repeats counts once",
    ),
    Option(
        name="evidence",
        settings={"judge.evidence": 0.5},
        function="scope_jax.method.task_checks:evidence_share",
        what="a task whose rubrics do not rest on its documents is dropped, and earns "
        "no difficulty",
    ),
    Option(
        name="answerable",
        settings={"judge.answerable": 0.5},
        function="scope_jax.method.task_checks:among",
        what="a task that the judge cannot answer from its documents is dropped, and "
        "earns no difficulty",
        cost="the judge's answer and its grades, per task that passes the gates",
    ),
    Option(
        name="SPEAR's search reward",
        settings={"solver.search_decay": "cosine"},
        function="scope_jax.method.solver:search_decay",
        what="searching is rewarded at first only",
    ),
    Option(
        name="AXPO",
        settings={"solver.resampling.count": 4},
        function="scope_jax.method.axpo:credit",
        what="where all rollouts that searched failed, the least sure first search "
        "is made K times anew",
        cost="K rollouts more for such a group",
    ),
    Option(
        name="ZPPO",
        settings={"solver.reposing.kind": "ncq"},
        function="scope_jax.method.task_buffer:after_group",
        what="failed tasks are kept and asked again, plainly and with candidates",
        cost="half of the step's prompts more; with bcq an answer of the judge and its "
        "grades per failed task",
    ),
    Option(
        name="step-aligned critique",
        settings={
            "solver.teacher.kind": "critique",
            "solver_train.loss.distillation": 0.1,
        },
        function="rl.learner.policies:teacher_advantages",
        what="an answer's tokens are also trained towards what the policy would say if "
        "it knew the judge's critique of it",
        cost="the judge's critique of each answer, and a pass over each conversation",
    ),
    Option(
        name="SCOPE's dual path",
        settings={
            "solver.teacher.kind": "dual_path",
            "solver_train.loss.distillation": 1.0,
            "solver_train.loss.likelihood": 1.0,
        },
        function="scope_jax.method.teacher:perplexity_weights",
        what="no reward: right answers are made likelier, wrong ones follow a teacher "
        "that has read the document",
        cost="a pass over each conversation with a wrong answer",
    ),
    *(
        Option(
            name=kind,
            settings={"challenger.difficulty": kind},
            function="scope_jax.method.challenger_shapes:shape",
            what=what,
        )
        for kind, what in {
            "one_minus": "the fewer rubrics the Solver meets, the better the task",
            "intermediate": "the Challenger's reward is a parabola in place of a tent",
            "ssr": "a task that is always or never solved costs something",
            "paso_doble": "hard tasks earn most, as long as they are solved at times "
            "and unlike those of the steps before",
        }.items()
    ),
)


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
    return "\n".join(lines) + "\n"


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
