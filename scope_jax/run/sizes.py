"""Whether a configuration's settings fit one another, before anything starts."""

from operator import attrgetter

from models import hf
from models.errors import UserError
from models.ranges import problem_of
from scope_jax.config import Config, compute_dtype
from scope_jax.method.draws import most_searches


def one_base(config: Config) -> bool:
    """Whether the trainer's engine serves all roles from one model in memory.

    Policy and previous Solver are then adapters of the base model, and judge and
    reference are the base model itself.
    """
    mesh, hosts = config.placement.trainer.mesh, config.placement.hosts.count
    alone = mesh.data * mesh.fsdp * mesh.tensor == hosts == 1
    return bool(config.lora.used) and alone and not config.inference.url


def check_base(config: Config) -> None:
    """Refuses to train an adapter of a model that is given as an adapter itself.

    Its exports would name that folder as their model. We merge one after the other;
    peft loses the first, and vLLM finds no model there.

    Raises:
      UserError: naming both, or the model is not there.
    """
    path, rank = config.model.path, config.lora.rank
    if config.lora.used and path != "demo" and hf.base_of(path):
        raise UserError(
            f"lora.rank={rank}: trains an adapter, and model.path={path} is the folder "
            "of one, which other programs can't have as its model: merge that first "
            "(peft's merge_and_unload; scripts/export_hf.py --merged for one of a run "
            "of ours), or train whole weights with --lora.rank 0"
        )


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
    _check_turns(config)
    stages = ("challenger_train", "solver_train")
    samplings = ["challenger.rollout_sampling", "tasks.sampling"]
    for name in (*samplings, *(f"{stage}.sampling" for stage in stages)):
        sampling = attrgetter(name)(config)
        if problem := problem_of(sampling):
            raise UserError(f"{name}.{problem}")
    own, other = (compute_dtype(config, getattr(config, name)) for name in stages)
    if own != other:
        raise UserError(
            f"challenger_train.update.compute_dtype: computes in {own}, and "
            f"solver_train.update.compute_dtype in {other}: one engine plays both "
            "policies: make them equal"
        )
    limits = [
        ("tasks.max_context_tokens", "engine.max_length"),
        ("tasks.sampling.max_new_tokens", "tasks.max_context_tokens"),
    ]
    for stage in stages:
        context = f"{stage}.max_context_tokens"
        limits += [(context, "engine.max_length"), (context, f"{stage}.update.length")]
    if not config.inference.url:
        rollout = "challenger.rollout_context_tokens"
        server = "engine" if one_base(config) else "inference.engine"
        limits.append((rollout, f"{server}.max_length"))
    for name, limit in limits:
        value, most = attrgetter(name)(config), attrgetter(limit)(config)
        if value > most:
            raise UserError(
                f"{name}={value}: exceeds {limit}={most}: raise the second or lower "
                "the first"
            )


def _check_turns(config: Config) -> None:
    """Refuses a schedule whose longest conversations end before their task.

    A turn for each search, and one for the task; where the Challenger plays at all.
    """
    schedule = config.challenger.schedule
    most, limits = most_searches(schedule), []
    if config.recipe == "self_play":
        limits += ["challenger.max_turns"] if config.challenger_train.steps else []
        limits += [] if config.tasks.file else ["tasks.max_turns"]
    for limit in limits:
        turns = attrgetter(limit)(config)
        if most >= turns:
            raise UserError(
                f"challenger.schedule={schedule}: asks for up to {most} searches, and "
                f"{limit}={turns} leaves no turn for the task: raise the second to "
                f"{most + 1} or more, or ask for fewer"
            )
