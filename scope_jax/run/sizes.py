"""Whether the sizes in a configuration fit one another, before anything starts."""

from operator import attrgetter

from models.errors import UserError
from models.ranges import problem_of
from scope_jax.config import Config


def check_sizes(config: Config) -> None:
    """Checks that sampling is supported and that settings fit each other.

    Raises:
      UserError: naming the fields and their values.
    """
    if config.evaluation.count and config.retrieval.passages != "demo":
        raise UserError(
            f"evaluation.count={config.evaluation.count}: the tasks are of the small "
            f"world, and retrieval.passages={config.retrieval.passages} is not: give "
            "--evaluation.count 0, and later your own prompts to scripts/eval.py --file"
        )
    if config.solver.resampling.count == 1 and config.solver_train.advantage == "rloo":
        raise UserError(
            "solver.resampling.count=1: is a group of its own, and solver_train."
            "advantage=rloo compares with others: give 2 or more"
        )
    stages = ("challenger_train", "solver_train")
    samplings = ["challenger.rollout_sampling", "tasks.sampling"]
    for name in (*samplings, *(f"{stage}.sampling" for stage in stages)):
        sampling = attrgetter(name)(config)
        if problem := problem_of(sampling):
            raise UserError(f"{name}.{problem}")
    limits = [
        ("tasks.max_context_tokens", "engine.max_length"),
        ("tasks.sampling.max_new_tokens", "tasks.max_context_tokens"),
    ]
    for stage in stages:
        context = f"{stage}.max_context_tokens"
        limits += [(context, "engine.max_length"), (context, f"{stage}.update.length")]
    if not config.inference.url:
        rollout = "challenger.rollout_context_tokens"
        limits.append((rollout, "inference.engine.max_length"))
    for name, limit in limits:
        value, most = attrgetter(name)(config), attrgetter(limit)(config)
        if value > most:
            raise UserError(
                f"{name}={value}: exceeds {limit}={most}: raise the second or lower "
                "the first"
            )
