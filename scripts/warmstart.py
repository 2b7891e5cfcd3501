"""Makes the small world's model: supervised training on programmatic transcripts.

    python scripts/warmstart.py                     # the shipped model, see --help
    python scripts/warmstart.py --steps 20 --out /path/to/folder

The same command goes on where it stopped: its state lies beside the model's folder
until the last step is done. Every ``--save-every`` steps the model is written.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import tyro

from models.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Options:
    """Warm start of the small world's model."""

    out: Path | None = None
    """Folder of the model. None: the one inside the package."""
    steps: int = 2400
    """Optimizer steps in all."""
    seed: int = 0
    """Of parameters and transcripts."""
    save_every: int = 200
    """Steps between two saves of state and model."""
    decay_steps: int = 400
    """Last steps, in which the learning rate falls to 0."""
    batch_tokens: int = 5280
    """Tokens of a step."""
    probe: int = 32
    """Conversations per job and tool format to measure at the end; 0 for none."""
    fresh: bool = False
    """Start anew even if there is a state to go on from."""


def main(options: Options) -> None:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax.numpy as jnp

    from models import hf
    from scope_jax.demo import assets, probe, warmstart, world

    if options.steps < 1:
        raise UserError(f"--steps {options.steps}: needs at least one step")
    out = options.out or assets.MODEL
    state = out.with_name(out.name + ".state.npz")
    if options.fresh:
        state.unlink(missing_ok=True)
    config = warmstart.WarmstartConfig(
        steps=options.steps,
        decay_steps=min(options.decay_steps, options.steps // 2),
        warmup_steps=min(50, options.steps // 4),
        seed=options.seed,
        batch_tokens=options.batch_tokens,
    )
    small_world = world.generate()
    # Once shipped it is frozen: models made later stay exchangeable with it.
    if (assets.MODEL / "tokenizer.json").is_file():
        tokenizer = hf.load_tokenizer(assets.MODEL)
    else:
        tokenizer = warmstart.make_tokenizer(small_world)

    def on_save(step, decoder, params) -> None:
        hf.save(out, decoder, params, tokenizer=tokenizer, dtype=jnp.float16)
        print(f"step {step}: wrote {out}", flush=True)

    decoder, params = warmstart.run(
        config,
        small_world,
        tokenizer,
        state_path=state,
        save_every=options.save_every,
        log=lambda line: print(line, flush=True),
        on_save=on_save,
    )
    state.unlink(missing_ok=True)
    if options.probe:
        player = probe.Player(decoder, params, small_world, tokenizer)
        print(probe.describe(probe.measure(player, count=options.probe)))


if __name__ == "__main__":
    from scope_jax import cli

    cli.run_main(lambda argv: main(tyro.cli(Options, args=argv, prog="warmstart.py")))
