"""One atomic checkpoint: the whole training state, and a JSON of what it belongs to.

A folder holds one subfolder per step, named by its number. Orbax writes under a
temporary name and renames at the end, so a numbered folder is complete, and anything
else was left by a process that was killed.
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
    """Returns the steps that have a complete checkpoint in ``folder``, in order."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    return sorted(
        int(path.name)
        for path in folder.iterdir()
        if path.name.isdigit() and (path / COMPLETE).is_file()
    )


def latest(folder: str | Path) -> int | None:
    """Returns the last step that has a complete checkpoint, or None."""
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
      folder: where the checkpoints of one training run lie; created if missing.
      step: training steps done, which is also the data position.
      state: any pytree of arrays; all of it is on disk when this returns.
      meta: JSON-serialisable facts (stage, seeds, configuration hash).
      keep: how many of the newest checkpoints are kept.
      keep_every: steps divisible by it are never removed; 0 for none.

    Returns:
      The checkpoint's folder.
    """
    folder = Path(folder).absolute()
    if leads := jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_partial(folder)
    # Or another process's save would begin before the folder has been cleaned.
    multihost_utils.sync_global_devices("checkpoint folder")
    path = folder / str(step)
    # Through JSON and back: fails here, before the write, if it isn't JSON.
    meta = json.loads(json.dumps(meta or {}))
    with _one_copy():
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
        wanted back (``train_state.States.abstract``). The mesh may differ from the
        one that it was saved on.
      step: which; None takes the latest.

    Returns:
      (state, meta, step); the arrays are bit-equal to those saved.

    Raises:
      UserError: if there is no such checkpoint, or its shapes differ.
    """
    path, step = _find(folder, step)
    metadata = ocp.metadata(path)
    _check_shapes(path, metadata.metadata, abstract_state)
    with _one_copy():
        state = ocp.load(path, abstract_state)
    return state, metadata.custom_metadata or {}, step


def restore_params(
    folder: str | Path, abstract_params: Tree, *, step: int | None = None
) -> tuple[Tree, int]:
    """Reads only the parameters of a checkpoint back; the moments stay on disk.

    Args:
      folder: the folder given to ``save``, whose states have a field ``params``.
      abstract_params: tree of ``jax.ShapeDtypeStruct`` with shardings; the devices may
        differ from those that it was saved on.
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
    with _one_copy():
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


def _remove_partial(folder: Path) -> None:
    """Removes what killed processes left in ``folder``."""
    complete = {str(step) for step in steps(folder)}
    for path in folder.iterdir():
        if path.is_dir() and path.name not in complete:
            shutil.rmtree(path)


def _one_copy() -> ocp.Context:
    """Orbax without a second copy of the state: we wait for it, nothing else writes."""
    context = ocp.Context()
    context.memory.deepcopy_host_arrays = False
    context.memory.write_concurrent_bytes = IN_FLIGHT
    context.memory.read_concurrent_bytes = IN_FLIGHT
    context.array.saving.use_compression = False  # noise does not shrink
    return context


def _check_shapes(path: Path, saved: Any, wanted: Any) -> None:
    """Raises where Orbax would pad or cut an array of another shape."""
    found, expected = _shapes(saved), _shapes(wanted)
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            held = f"has shape {found[name]}" if name in found else "is missing"
            want = f"{expected[name]}" if name in expected else "none"
            raise UserError(
                f"{path}: array {name} {held}, this model has {want}: use the "
                "configuration it was saved with"
            )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Shape of each array by its name, which is the same on disk and in memory."""

    def name(key: Any) -> str:
        # Orbax's metadata has dictionaries where a state has fields.
        return str(
            next(getattr(key, k) for k in ("key", "name", "idx") if hasattr(key, k))
        )

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        "/".join(map(name, keys)): tuple(leaf.shape)
        for keys, leaf in leaves
        if hasattr(leaf, "shape")
    }
