"""Settings that nothing would read beside others, refused before anything starts.

Two kinds of training read no rewards, only whether an answer is right: what is made of
rewards would be asked for and do nothing. Others shape what another setting turns off.
"""

from operator import attrgetter
from typing import Any

from models.errors import UserError

OF_A_STAGE = {
    "advantage": "group",
    "advantage_std": True,
    "drop_zero": False,
    "overlong.buffer": 0,
}
"""Settings of a training stage that are about rewards, at the value that asks for
nothing."""
OF_THE_SOLVER = {
    "judge.weights.kind": "equal",
    "solver.search_decay": "none",
    "solver.reward": "",
    "solver.resampling.count": 0,
}
"""Settings of the Solver's reward, likewise."""


WITHOUT = (
    ("solver.search_decay", "none", "solver.search_weight"),
    ("evaluation.every", 0, "evaluation.count"),
)
"""A setting, its value that asks for nothing, and the number without which it has no
effect. Not ``evaluation.each_iteration``: ``tiny`` has it on, with any count."""


def check_unread(config: Any) -> None:
    """Refuses what the rest of a configuration would leave without any effect.

    Args:
      config: a `scope_jax.config.Config`.

    Raises:
      UserError: naming both settings.
    """
    for stage in ("challenger_train", "solver_train"):
        kind = f"{stage}.loss.policy"
        if attrgetter(kind)(config) == "nft":
            _refuse(config, stage, f"{kind}=nft reads outcomes and no rewards")
    # Not with nft: there dynamic_sampling compares outcomes.
    if config.solver.teacher.kind == "dual_path":
        why = "solver.teacher.kind=dual_path reads no rewards"
        _refuse(config, "solver_train", why, {"dynamic_sampling": False})
    for name, off, needed in WITHOUT:
        value = attrgetter(name)(config)
        if value != off and not attrgetter(needed)(config):
            raise UserError(
                f"{name}={value}: has no effect with {needed}=0: leave it at {off!r}, "
                "or raise the second"
            )
    if config.compat.micro_batch_mean:
        _refuse_other_means(config)


def _refuse(
    config: Any, stage: str, why: str, more: dict[str, Any] | None = None
) -> None:
    idle = {f"{stage}.{name}": off for name, off in (OF_A_STAGE | (more or {})).items()}
    if stage == "solver_train":
        idle |= OF_THE_SOLVER
    for name, off in idle.items():
        value = attrgetter(name)(config)
        if value != off:
            raise UserError(
                f"{name}={value}: has no effect, as {why}: leave it at {off!r}, or "
                "choose another kind"
            )


def _refuse_other_means(config: Any) -> None:
    """The reference's mean replaces ``aggregation``, not of a method's own."""
    for stage in ("challenger_train", "solver_train"):
        loss = getattr(config, stage).loss
        own = {
            "ratio": loss.ratio == "sequence",
            "aggregation": loss.aggregation == "constant_length",
        }
        for name in (name for name, asked in own.items() if asked):
            raise UserError(
                f"{stage}.loss.{name}={getattr(loss, name)}: has its own mean, and "
                "compat.micro_batch_mean that of the reference: set the second to "
                "False, or leave the first"
            )
