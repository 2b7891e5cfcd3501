"""Makes the small world's model from nothing: tokenizer, training, examination.

    python scripts/warmstart.py                     # the shipped model, see --help
    python scripts/warmstart.py --steps 20 --out /path/to/folder --exam 0

A model of about 0.8 million parameters learns every job from programmatic transcripts,
is examined (``pretraining.exam.REQUIRED``) and takes its place only if it passes:
otherwise it stays beside it in ``OUT.candidate``, each failure is named, and the exit
code is 1. The same command resumes where it stopped; with other options that change the
model, it is refused. One machine makes the same bits from the same seed.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parent))

import check_packages  # noqa: F401
from models import storage
from models.errors import UserError
from models.ranges import Count, CountOrZero, check_fields
from rl import seeds
from scope_jax.run import cli
from scope_jax.run.mistakes import check_folder
from scope_jax.system import stopping


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of one invocation."""

    out: Path | None = None
    """Folder of the model. None: the one inside the package."""
    steps: Count = 2500
    """Optimizer steps of the first cycle; the others keep their share."""
    seed: Annotated[int, seeds.RANGE] = 0
    """Seed of parameters and transcripts."""
    save_every: Count = 100
    """Steps between two saves of the state."""
    decay_steps: CountOrZero = 500
    """Steps at the end of the first cycle in which the learning rate falls to 0."""
    batch_tokens: Count = 5280
    """Tokens per step."""
    exam: CountOrZero = 150
    """Conversations per job and tool format in the examination; 0: none."""
    fresh: bool = False
    """Start again from step 0, even if there is a state to resume from."""

    def __post_init__(self):
        check_fields(self)


def checked(out: Path) -> Path:
    """``out``, if the model may take its place, and has room beside it.

    Raises:
      UserError: what is there is no model, or it has no name.
    """
    check_folder("--out", out)
    if out.name in ("", ".."):
        raise UserError(f"--out {out}: is no name: name a folder, as {out}/model")
    used = out.is_dir() and any(out.iterdir())
    if used and not (out / "config.json").is_file():
        raise UserError(
            f"--out {out}: holds no model, and would be replaced: name another folder"
        )
    return out


def main(argv: Sequence[str]) -> int:
    options = cli.parse_alone(Options, argv, prog="warmstart.py", about=__doc__)
    import jax
    import jax.numpy as jnp

    from models import hf
    from models.sharding import make_mesh
    from pretraining import exam, recipe, warmstart
    from pretraining.player import Player
    from scope_jax.small_world import assets, world

    jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
    out = checked(options.out or assets.MODEL)
    candidate = out.with_name(out.name + ".candidate")
    state = out.with_name(out.name + ".state.npz")
    if options.fresh:
        state.unlink(missing_ok=True)
    stopping.catch_signals(what="saves the state and ends")
    usual = recipe.WarmstartConfig()
    config = replace(
        usual,
        steps=options.steps,
        cycles=tuple(
            replace(cycle, steps=-(-cycle.steps * options.steps // usual.steps))
            for cycle in usual.cycles
        ),
        finish_steps=min(1000, options.steps // 3),
        decay_steps=min(options.decay_steps, options.steps // 2),
        warmup_steps=min(50, options.steps // 4),
        seed=options.seed,
        batch_tokens=options.batch_tokens,
    )
    small_world = world.generate()
    tokenizer = warmstart.make_tokenizer(small_world)
    decoder, params = warmstart.run(
        config,
        tokenizer,
        state_path=state,
        save_every=options.save_every,
        log=lambda line: print(line, flush=True),
    )
    hf.save(candidate, decoder, params, tokenizer=tokenizer, dtype=jnp.float16)
    if options.exam:
        # What is examined is what ships: 16-bit weights.
        mesh = make_mesh(data=1, fsdp=1, tensor=1)
        decoder, params = hf.load(candidate, mesh=mesh, dtype="float32")
        player = Player(decoder, params, small_world, tokenizer)
        found = exam.examine(player, count=options.exam)
        print(exam.describe(found))
        if failed := exam.failures(found):
            print("not shipped:", *failed, f"the model is in {candidate}", sep="\n  ")
            return 1
    storage.replace_folder(candidate, out)
    state.unlink(missing_ok=True)
    print(f"wrote {out}")
    return 0


if __name__ == "__main__":
    cli.run_main(main)
