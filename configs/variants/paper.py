"""The reward weights and the length limits that the paper gives, not the code's.

Format and difficulty 1.0 and 0.5 (the code: 0.5 and 1.0), the Solver's format 1.0
(0.5), answers lose from 512 tokens on and keep 0.1 from 4,096 on (1,024, 0.05, 2,048).
"""

from dataclasses import replace

from scope_jax.config import Config
from scope_jax.solver import LengthConfig


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
