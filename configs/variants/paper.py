"""The reward weights and length limits of the paper instead of its code's.

Challenger: format 1.0 and difficulty 0.5 (the code: 0.5 and 1.0). Solver: format 1.0
(0.5); an answer loses accuracy from 512 tokens on and keeps 0.1 of it at 4,096 (from
1,024 on, 0.05 at 2,048).
"""

from dataclasses import replace

from scope_jax.config import Config
from scope_jax.method.solver import LengthConfig


def apply(config: Config) -> Config:
    """The same run with the paper's rewards."""
    return replace(
        config,
        challenger=replace(config.challenger, format_weight=1.0, difficulty_weight=0.5),
        solver=replace(
            config.solver,
            format_weight=1.0,
            length=LengthConfig(soft=512, hard=4096, floor=0.1),
        ),
    )
