"""Makes the small world's model: supervised training on programmatic transcripts.

    python scripts/warmstart.py                     # the shipped model, see --help
    python scripts/warmstart.py --steps 20 --out /path/to/folder

The same command resumes where it stopped: its state lies beside the model's folder
until the last step is done. Every ``--save-every`` steps the model is written.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import check_packages  # noqa: F401
from models.errors import UserError
from scope_jax.run import cli


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of one invocation."""

    out: Path | None = None
    """Folder of the model. None: the one inside the package."""
    steps: int = 2400
    """Optimizer steps in total."""
    seed: int = 0
    """Seed of parameters and transcripts."""
    save_every: int = 200
    """Steps between two saves of state and model."""
    decay_steps: int = 400
    """Steps at the end in which the learning rate falls to 0."""
    batch_tokens: int = 5280
    """Tokens per step."""
    probe: int = 32
    """Conversations per job and tool format to measure at the end; 0 for none."""
    fresh: bool = False
    """Start again from step 0, even if there is a state to resume from."""


def main(argv: Sequence[str]) -> int:
    options = cli.parse_alone(Options, argv, prog="warmstart.py", about=__doc__)
    import jax
    import jax.numpy as jnp

    from models import hf
    from pretraining import probe, warmstart
    from scope_jax.small_world import assets, world

    jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
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
    return 0


if __name__ == "__main__":
    cli.run_main(main)
