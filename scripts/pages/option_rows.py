"""The rows of the page of the options, which ``options_page`` checks and writes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
        name="Dr. GRPO",
        settings={
            "solver_train.advantage_std": False,
            "solver_train.loss.aggregation": "constant_length",
        },
        function="rl.learner.advantages:group_advantages",
        what="neither a group's spread nor an answer's length changes a token's weight",
    ),
    Option(
        name="dynamic sampling",
        settings={"solver_train.dynamic_sampling": True},
        function="scope_jax.selfplay.drawing:until_full",
        what="groups of equal rewards are replaced by others, so that a step trains on "
        "as many as it should",
        cost="the rollouts of the groups that are left out",
    ),
    Option(
        name="soft overlong term",
        settings={
            "solver_train.overlong.limit": 8192,
            "solver_train.overlong.buffer": 1024,
        },
        function="rl.learner.advantages:overlong_penalty",
        what="long rollouts lose up to 1; on top of the Solver's own length factor",
    ),
    Option(
        name="overlong filtering",
        settings={"solver_train.overlong.mask": True},
        function="scope_jax.selfplay.estimates:masked",
        what="nothing of a rollout that was cut off at a limit is trained on",
    ),
    Option(
        name="RLOO",
        settings={"solver_train.advantage": "rloo"},
        function="rl.learner.advantages:leave_one_out_advantages",
        what="a reward is compared with its group's other rewards",
    ),
    Option(
        name="SPIRAL",
        settings={"solver_train.advantage": "role"},
        function="rl.learner.advantages:role_advantages",
        what="a reward is compared with a running mean, also across steps; groups of "
        "one will do",
    ),
    Option(
        name="SPIRAL's filter",
        settings={"solver_train.advantage": "role", "solver_train.drop_zero": True},
        function="scope_jax.selfplay.estimates:masked",
        what="rollouts without an advantage have no part in means over tokens, nor in "
        "the penalty towards the base model",
    ),
    Option(
        name="MARS",
        settings={"solver_train.advantage": "turn"},
        function="rl.learner.advantages:turn_advantages",
        what="each turn has an advantage of its own: searching earns in the turns that "
        "search, all else in the last",
    ),
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
        name="NFT",
        settings={"solver_train.loss.policy": "nft"},
        function="rl.learner.policies:nft_loss",
        what="right answers become likelier, wrong ones are trained by what is left "
        "without them; no advantage, groups all right or all wrong give nothing",
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
    *(
        Option(
            name=kind.upper(),
            settings={
                "recipe": "preference",
                "preference.run": "runs/tiny",
                "preference.loss.kind": kind,
            },
            function="rl.learner.preferences:pair_losses",
            what=f"trains offline on a run's best and worst answers; {what}",
            cost="a run of its own, below: two passes forward and one back a pair",
        )
        for kind, what in {
            "dpo": "their difference grows, ever more slowly",
            "ipo": "their difference has a goal",
            "spin": "their difference grows up to a margin",
            "sppo": "each of the two has a goal",
        }.items()
    ),
)
