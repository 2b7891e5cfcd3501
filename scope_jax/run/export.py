"""A role's weights out of a run, as a Hugging Face folder for other programs."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from models import hf
from models.chat import ChatRenderer
from models.config import DecoderConfig
from models.errors import UserError
from models.hf.layout import layout, unflatten
from rl.learner import checkpoint
from scope_jax.config import Config
from scope_jax.run.folder import RunPaths
from scope_jax.small_world.assets import resolve
from scope_jax.system import settings


def export(
    run: Path,
    iteration: int,
    role: str,
    *,
    step: int | None = None,
    out: Path | None = None,
    dtype: str | None = None,
) -> tuple[Path, str]:
    """Writes weights, configurations, tokenizer and the template of the training.

    The run may still be going on: nothing of it is written or locked.

    Args:
      run: folder of a run.
      iteration: counts from 1.
      role: "challenger" or "solver".
      step: of a checkpoint that still exists; None takes the end of the stage, or its
        latest checkpoint where it has not finished.
      out: folder to make; None: ``RUN-iter_N-ROLE`` in the current folder.
      dtype: of the tensors; None keeps what is stored.

    Returns:
      The folder that was made, and where the weights came from, in words.

    Raises:
      UserError: one line for whatever does not exist, or exists already.
    """
    paths = RunPaths(run)
    config = resolve(settings.load(Config, paths.path / "config.json"))
    if not 1 <= iteration <= config.iterations:
        raise UserError(
            f"--iteration {iteration}: the run has iterations 1 to {config.iterations}"
        )
    if out is None:
        out = Path(f"{paths.path.resolve().name}-iter_{iteration}-{role}")
    if out.exists():
        raise UserError(f"{out}: already exists: name another folder with --out")
    exported = paths.export(iteration, role)
    if step is None and (exported / "config.json").is_file():
        fields = hf.read_json(exported / "config.json")
        stored = fields.get("dtype") or fields.get("torch_dtype") or "float32"
        decoder, params = hf.load(exported, dtype=stored)
        words = f"the end of iteration {iteration}"
    else:
        checkpoints = paths.checkpoints(iteration, role)
        if not checkpoint.steps(checkpoints):
            raise UserError(
                f"{run}: iteration {iteration} has trained no {role} yet: choose "
                "another --iteration or --role, or let the run continue"
            )
        decoder = hf.load_config(config.model.path)
        params, found = checkpoint.restore_params(
            checkpoints, _on_one_device(decoder), step=step
        )
        words = f"the checkpoint of step {found}"
    tokenizer = hf.load_tokenizer(config.model.path)
    chat = ChatRenderer.from_tokenizer(tokenizer, template=config.model.template)
    hf.save(
        out,
        decoder,
        params,
        tokenizer=tokenizer,
        dtype=dtype,
        template=chat.template,
        stop_ids=chat.stop_ids,
    )
    return out, words


def _on_one_device(decoder: DecoderConfig) -> Any:
    """Shapes of the parameters, float32, for a checkpoint to be read into."""
    here = SingleDeviceSharding(jax.devices()[0])
    shapes = {
        path: jax.ShapeDtypeStruct(
            leaf.full_shape(decoder.num_layers), jnp.float32, sharding=here
        )
        for path, leaf in layout(decoder).items()
    }
    return unflatten(shapes)
