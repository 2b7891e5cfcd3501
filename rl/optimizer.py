"""AdamW on float32 master weights, with gradient clipping."""

from dataclasses import dataclass

import optax


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW, a constant learning rate after an optional linear warm-up."""

    learning_rate: float = 1e-6
    """Learning rate after warm-up."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.999
    """Decay of the second moment."""
    epsilon: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.01
    """Decoupled weight decay, on every parameter."""
    clip_norm: float = 1.0
    """Gradients of a larger global norm are scaled down to it."""
    warmup_updates: int = 0
    """Updates over which the learning rate rises linearly to its value."""


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Returns clipping by global norm followed by AdamW.

    Non-finite gradients are the caller's to catch: clipping would spread them.
    """
    schedule: optax.ScalarOrSchedule = config.learning_rate
    if config.warmup_updates:
        schedule = optax.linear_schedule(
            # The first update already moves: one at learning rate 0 is wasted.
            init_value=config.learning_rate / (config.warmup_updates + 1),
            end_value=config.learning_rate,
            transition_steps=config.warmup_updates,
        )
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            schedule,
            b1=config.beta1,
            b2=config.beta2,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
        ),
    )
