"""A role's weights out of a run, as a Hugging Face folder for other programs."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from models import hf
from models.chat import ChatRenderer
from models.errors import UserError
from models.hf_layout import layout, unflatten
from rl import checkpoint
from scope_jax import settings
from scope_jax.config import Config
from scope_jax.run_folder import RunPaths
from scope_jax.session import resolve

ROLES = ("challenger", "solver")
DTYPES = ("float32", "bfloat16", "float16")


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
      step: of a checkpoint that is still there; None takes the end of the stage, or
        its latest checkpoint where it isn't finished.
      out: folder to make; None: ``RUN-iter_N-ROLE`` in the current folder.
      dtype: of the tensors; None keeps what is stored.

    Returns:
      The folder that was made, and where the weights came from, in words.

    Raises:
      UserError: one line for whatever isn't there, or is there already.
    """
    paths = RunPaths(run)
    file = paths.path / "config.json"
    if not file.is_file():
        raise UserError(f"{run}: no run (it has no config.json): give a run's folder")
    config = resolve(settings.load(Config, file))
    if role not in ROLES:
        raise UserError(f"--role {role}: no such role: use {' or '.join(ROLES)}")
    if not 1 <= iteration <= config.iterations:
        raise UserError(
            f"--iteration {iteration}: the run has iterations 1 to {config.iterations}"
        )
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"--dtype {dtype}: not supported: use {', '.join(DTYPES)}")
    if out is None:
        out = Path(f"{paths.path.resolve().name}-iter_{iteration}-{role}")
    if out.exists():
        raise UserError(f"{out}: exists already: name another folder with --out")
    exported = paths.export(iteration, role)
    if step is None and (exported / "config.json").is_file():
        decoder, params = hf.load(exported, dtype=_stored_dtype(exported))
        words = f"the end of iteration {iteration}"
    else:
        checkpoints = paths.checkpoints(iteration, role)
        if not checkpoint.steps(checkpoints):
            raise UserError(
                f"{run}: iteration {iteration} has trained no {role} yet: choose "
                "another --iteration or --role, or let the run go on"
            )
        decoder = hf.load_config(config.model.path)
        here = SingleDeviceSharding(jax.devices()[0])
        shapes = {
            path: jax.ShapeDtypeStruct(
                leaf.full_shape(decoder.num_layers), jnp.float32, sharding=here
            )
            for path, leaf in layout(decoder).items()
        }
        params, found = checkpoint.restore_params(
            checkpoints, unflatten(shapes), step=step
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


def _stored_dtype(folder: Path) -> Any:
    """The dtype in which an exported folder's tensors are."""
    fields = hf.read_json(folder / "config.json")
    return fields.get("dtype") or fields.get("torch_dtype") or "float32"
