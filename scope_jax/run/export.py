"""A role's weights out of a run, as a Hugging Face folder for other programs."""

from pathlib import Path
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

from models import forward, hf, lora
from models.chat import ChatRenderer
from models.config import DecoderConfig
from models.errors import UserError
from models.hf.folder import ADAPTER
from models.lora import LoraConfig
from rl.learner import checkpoint
from scope_jax.config import Config
from scope_jax.run.mistakes import check_folder
from scope_jax.run.paths import RunPaths
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
    merged: bool = False,
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
      merged: of a run that trains adapters, a whole model with the adapter's product
        added to its weights, and not a folder of the adapter alone.

    Returns:
      The folder that was made, and where the weights came from, in words.

    Raises:
      UserError: one line for whatever does not exist, or exists already.
    """
    paths = RunPaths(run)
    config = resolve(settings.load(Config, paths.path / "config.json"))
    if out is None:
        out = Path(f"{paths.path.resolve().name}-iter_{iteration}-{role}")
    _check(config, iteration, out, merged=merged)
    decoder = hf.load_config(config.model.path)
    params, words = _params(config, decoder, run, iteration, role, step)
    tokenizer = hf.load_tokenizer(config.model.path)
    chat = ChatRenderer.from_tokenizer(tokenizer, template=config.model.template)
    written = {"tokenizer": tokenizer, "dtype": dtype, "template": chat.template}
    if config.lora.used and not merged:
        path = config.model.path
        base = {"base": absolute(path), "images": hf.sees_images(path)}
        hf.save_adapter(out, decoder, params, config.lora, **base, **written)
        return out, words
    if config.lora.used:
        whole = hf.load(config.model.path, dtype=_stored(config.model.path))[1]
        params = lora.merge(whole, lora.scaled(params, config.lora))
    hf.save(out, decoder, params, stop_ids=chat.stop_ids, **written)
    return out, words


def _params(
    config: Config,
    decoder: DecoderConfig,
    run: Path,
    iteration: int,
    role: str,
    step: int | None,
) -> tuple[Any, str]:
    """The weights, or the adapter, and where they come from; see ``export``."""
    paths = RunPaths(run)
    exported = paths.export(iteration, role)
    words = f"the end of iteration {iteration}"
    if step is None and (exported / ADAPTER).is_file():
        return hf.load_adapter(exported, decoder)[0], words
    if step is None and (exported / "config.json").is_file():
        return hf.load(exported, dtype=_stored(exported))[1], words
    checkpoints = paths.checkpoints(iteration, role)
    if not checkpoint.steps(checkpoints):
        raise UserError(
            f"{run}: iteration {iteration} has trained no {role} yet: choose "
            "another --iteration or --role, or let the run continue"
        )
    params, found = checkpoint.restore_params(
        checkpoints, _on_one_device(decoder, config.lora.used), step=step
    )
    return params, f"the checkpoint of step {found}"


def _check(config: Config, iteration: int, out: Path, *, merged: bool) -> None:
    """Raises ``UserError`` for what a run of this configuration can't give."""
    if not 1 <= iteration <= config.iterations:
        raise UserError(
            f"--iteration {iteration}: the run has iterations 1 to {config.iterations}"
        )
    check_folder("--out", out)
    if out.exists():
        raise UserError(f"{out}: already exists: name another folder with --out")
    if merged and not config.lora.used:
        raise UserError("--merged: the run trains whole weights: leave it out")
    if config.lora.used and not merged and hf.base_of(config.model.path):
        raise UserError(
            f"model.path={config.model.path}: is the folder of an adapter, to which "
            "other programs can't add the run's own: write a whole model with --merged"
        )


def absolute(path: str) -> str:
    """A folder's name as it may be written elsewhere; a hub name stays as it is."""
    folder = Path(path).expanduser()
    return str(folder.absolute()) if folder.exists() else path


def _stored(path: str | Path) -> str:
    """What the tensors of a model's folder are stored in."""
    folder = hf.base_of(path) or hf.resolve(path)
    fields = hf.read_json(folder / "config.json")
    return fields.get("dtype") or fields.get("torch_dtype") or "float32"


def _on_one_device(decoder: DecoderConfig, adapter: LoraConfig | None) -> Any:
    """Shapes of what was trained, float32, for a checkpoint to be read into."""
    here = SingleDeviceSharding(jax.devices()[0])
    shapes = lora.shapes(decoder, adapter) if adapter else forward.shapes(decoder)
    return jax.tree.map(lambda x: x.update(sharding=here), shapes)
