"""What an engine has done since its start."""

from dataclasses import dataclass, field


@dataclass
class Work:
    """Totals; tokens of prompts are counted by ``rl.engine.prefilling``.

    Attributes:
      decode_tokens, decode_steps: tokens sampled, and steps of the decode loop.
      restarts: how often a sequence gave up its pages.
      non_finite: requests whose logits were not finite.
      seconds: spent in prefill and in decode.
    """

    decode_tokens: int = 0
    decode_steps: int = 0
    restarts: int = 0
    non_finite: int = 0
    seconds: dict[str, float] = field(
        default_factory=lambda: {"prefill": 0.0, "decode": 0.0}
    )

    def stats(self, **others: int) -> dict[str, float]:
        """The totals and ``others`` as metrics, with tokens per second."""
        totals: dict[str, float] = {
            "decode_tokens": self.decode_tokens,
            "decode_steps": self.decode_steps,
            "restarts": self.restarts,
            "non_finite": self.non_finite,
            **others,
        }
        for name, seconds in self.seconds.items():
            totals[f"{name}_seconds"] = seconds
            rate = totals[f"{name}_tokens"] / max(seconds, 1e-9)
            totals[f"{name}_tokens_per_second"] = rate
        return {f"perf/{name}": float(value) for name, value in totals.items()}
