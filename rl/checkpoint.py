"""One atomic checkpoint: the whole training state, and a JSON of what it belongs to.

A folder holds one subfolder a step, named by its number. Orbax writes under a temporary
name and renames at the end, so a numbered folder is whole, and anything else is the
remainder of a process that was killed.
"""

import json
import shutil
from pathlib import Path
from typing import Any, TypeVar

import jax
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from models.errors import UserError

Tree = TypeVar("Tree")

IN_FLIGHT = 2**30  # bytes on their way to or from the disk
COMPLETE = "orbax.checkpoint"  # the empty file that Orbax puts into every checkpoint


def steps(folder: str | Path) -> list[int]:
    """Returns the steps that have a whole checkpoint in ``folder``, in order."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    return sorted(
        int(path.name)
        for path in folder.iterdir()
        if path.name.isdigit() and (path / COMPLETE).is_file()
    )


def latest(folder: str | Path) -> int | None:
    """Returns the last step that has a whole checkpoint, or None."""
    found = steps(folder)
    return found[-1] if found else None


def save(
    folder: str | Path,
    step: int,
    state: Any,
    *,
    meta: dict[str, Any] | None = None,
    keep: int = 2,
    keep_every: int = 0,
) -> Path:
    """Writes ``state`` as the checkpoint of ``step``, then removes old ones.

    Where a run has several processes, all of them call this, with one shared folder.

    Args:
      folder: where the checkpoints of one training live; made if it isn't there.
      step: training steps done, which is also the data position.
      state: any pytree of arrays; returns when all of it is on disk.
      meta: JSON-serialisable facts (stage, seeds, configuration hash).
      keep: newest checkpoints that stay.
      keep_every: steps divisible by it stay for ever; 0 for none.

    Returns:
      The checkpoint's folder.
    """
    folder = Path(folder).absolute()
    if leads := jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        remove_partial(folder)
    # Or another process's save would begin before what is there is looked through.
    multihost_utils.sync_global_devices("checkpoint folder")
    path = folder / str(step)
    # Through JSON and back: refused here, before the write, if it isn't JSON.
    meta = json.loads(json.dumps(meta or {}))
    with _sparing():
        ocp.save(path, state, custom_metadata=meta, overwrite=True)
    for old in steps(folder)[: -max(keep, 1)] if leads else ():
        if not keep_every or old % keep_every:
            shutil.rmtree(folder / str(old))
    return path


def restore(
    folder: str | Path, abstract_state: Tree, *, step: int | None = None
) -> tuple[Tree, dict[str, Any], int]:
    """Reads a checkpoint back, onto the mesh that ``abstract_state`` names.

    Args:
      folder: the folder given to ``save``.
      abstract_state: tree of ``jax.ShapeDtypeStruct`` with shardings, of the structure
        wanted back (``rl.train_state.States.abstract``). The mesh may differ from
        the one that saved.
      step: which; None takes the latest.

    Returns:
      (state, meta, step); the arrays are bit-equal to those saved.

    Raises:
      UserError: if there is no such checkpoint, or it is of other shapes.
    """
    path, step = _find(folder, step)
    metadata = ocp.metadata(path)
    _check_shapes(path, metadata.metadata, abstract_state)
    with _sparing():
        state = ocp.load(path, abstract_state)
    return state, metadata.custom_metadata or {}, step


def restore_params(
    folder: str | Path, abstract_params: Tree, *, step: int | None = None
) -> tuple[Tree, int]:
    """Reads only the parameters of a checkpoint back; the moments stay on the disk.

    Args:
      folder: the folder given to ``save``, whose states have a field ``params``.
      abstract_params: tree of ``jax.ShapeDtypeStruct`` with shardings; the devices may
        be others than those that saved.
      step: which; None takes the latest.

    Returns:
      (parameters, step).

    Raises:
      UserError: as ``restore``.
    """
    path, step = _find(folder, step)
    saved = ocp.metadata(path).metadata
    _check_shapes(path, saved["params"], abstract_params)
    wanted = jax.tree.map(lambda _: ocp.PLACEHOLDER, saved)
    with _sparing():
        state = ocp.load(path, wanted | {"params": abstract_params})
    return state["params"], step


def _find(folder: str | Path, step: int | None) -> tuple[Path, int]:
    """Returns where the checkpoint of ``step`` lies; None means the latest."""
    folder = Path(folder).absolute()
    found = steps(folder)
    if step is None and found:
        step = found[-1]
    if step is None or step not in found:
        raise UserError(
            f"{folder}: has no checkpoint{'' if step is None else f' of step {step}'} "
            f"(steps there: {found or 'none'}): choose one that exists"
        )
    return folder / str(step), step


def remove_partial(folder: str | Path) -> list[str]:
    """Removes what killed processes left in ``folder``; returns the names."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    whole = {str(step) for step in steps(folder)}
    partial = sorted(p for p in folder.iterdir() if p.is_dir() and p.name not in whole)
    for path in partial:
        shutil.rmtree(path)
    return [path.name for path in partial]


def _sparing() -> ocp.Context:
    """Orbax without a second copy of the state: we wait for it, nothing else writes."""
    context = ocp.Context()
    context.memory.deepcopy_host_arrays = False
    context.memory.write_concurrent_bytes = IN_FLIGHT
    context.memory.read_concurrent_bytes = IN_FLIGHT
    context.array.saving.use_compression = False  # noise does not shrink
    return context


def _check_shapes(path: Path, saved: Any, wanted: Any) -> None:
    """Orbax would pad or cut an array of another shape; a user is told instead."""
    shapes = [tuple(x.shape) for x in jax.tree.leaves(saved) if hasattr(x, "shape")]
    expected = [tuple(x.shape) for x in jax.tree.leaves(wanted)]
    if sorted(shapes) != sorted(expected):
        raise UserError(
            f"{path}: holds {len(shapes)} arrays of other shapes than this model's "
            f"{len(expected)}: use the configuration it was saved with"
        )
