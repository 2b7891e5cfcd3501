"""One atomic checkpoint: the whole training state, and a JSON of what it belongs to.

A folder holds one subfolder per step, named by its number. It is written under another
name, hashed, brought to the disk and renamed, so that a numbered folder is complete;
its ``SHA256SUMS`` says whether it still is. What is found damaged is renamed to
``STEP.damaged`` and kept until the step has been saved again.
"""

import contextlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from models import checksums, storage
from models.errors import DamagedError, UserError, first_line

Tree = TypeVar("Tree")

IN_FLIGHT = 2**30  # bytes on their way to or from the disk
WRITING, REPLACED = ".writing", f".{storage.REPLACED}"


def steps(folder: str | Path) -> list[int]:
    """Returns the steps that have a checkpoint in ``folder``, in order."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


def latest(folder: str | Path) -> int | None:
    """Returns the last step that has a checkpoint, or None."""
    found = steps(folder)
    return found[-1] if found else None


def newest_whole(
    folder: str | Path, damaged: Callable[[DamagedError], None]
) -> int | None:
    """Returns the last step whose checkpoint is whole, or None.

    Those after it are set aside. All of them are read, and nothing is restored.

    Args:
      damaged: is told of each that is not whole.
    """
    folder = Path(folder)
    for replaced in folder.glob(f"*{REPLACED}"):
        if not replaced.with_suffix("").exists():  # killed between two renames
            replaced.rename(replaced.with_suffix(""))
    for step in reversed(steps(folder)):
        try:
            verify(folder, step)
            return step
        except DamagedError as error:
            with storage.writing(folder):
                storage.set_aside(folder / str(step))
            damaged(error)
    return None


def verify(folder: str | Path, step: int) -> bool:
    """Compares the files of a checkpoint with their hashes.

    Returns:
      Whether it has hashes; those of older versions have none.

    Raises:
      DamagedError: naming a file.
    """
    path = Path(folder) / str(step)
    if checksums.verify_folder(path):
        return True
    if not (path / "orbax.checkpoint").is_file():  # which Orbax puts into all of them
        raise DamagedError(path, "holds no checkpoint")
    return False


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

    Raises:
      StorageError: the disk refuses it; what was there before is as it was.
    """
    folder = Path(folder).absolute()
    path, draft = folder / str(step), folder / f"{step}{WRITING}"
    needed = sum(getattr(leaf, "nbytes", 0) for leaf in jax.tree.leaves(state))
    # Through JSON and back: fails here, before the write, if it isn't JSON.
    meta = json.loads(json.dumps(meta or {}))
    with storage.writing(path, needed):
        if leads := jax.process_index() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            _remove_partial(folder)
        # Or another process's save would begin before the folder has been cleaned.
        multihost_utils.sync_global_devices("checkpoint folder")
        try:
            with _one_copy(), _one_report():
                ocp.save(draft, state, custom_metadata=meta, overwrite=True)
            if leads:
                checksums.record_folder(draft)
                storage.replace_folder(draft, path)
        except BaseException:
            if leads:
                _remove_partial(folder)
            raise
        # The others must not look for it before it is there.
        multihost_utils.sync_global_devices("checkpoint written")
        if leads:
            remove_old(folder, keep=keep, keep_every=keep_every)
            shutil.rmtree(folder / f"{step}.damaged", ignore_errors=True)
    return path


def remove_old(folder: str | Path, *, keep: int, keep_every: int) -> None:
    """Removes what ``save`` does not keep; alone, what it was killed before removing.

    Args:
      folder, keep, keep_every: as given to ``save``.
    """
    for old in steps(folder)[: -max(keep, 1)]:
        if not keep_every or old % keep_every:
            shutil.rmtree(Path(folder) / str(old))


def restore(
    folder: str | Path,
    abstract_state: Tree,
    *,
    step: int | None = None,
    verified: bool = False,
) -> tuple[Tree, dict[str, Any], int]:
    """Reads a checkpoint back, onto the mesh that ``abstract_state`` names.

    Args:
      folder: the folder given to ``save``.
      abstract_state: tree of ``jax.ShapeDtypeStruct`` with shardings, of the structure
        wanted back (``train_state.States.abstract``). The mesh may differ from the
        one that it was saved on.
      step: which; None takes the latest.
      verified: its files have been compared with their hashes already.

    Returns:
      (state, meta, step); the arrays are bit-equal to those saved.

    Raises:
      DamagedError: a file of it is not what was written.
      UserError: if there is no such checkpoint, or its shapes differ.
    """
    path, step = _find(folder, step)
    with _reading(path, verified):
        metadata = _metadata(path)
        _check_shapes(path, metadata.metadata, abstract_state)
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
    with _reading(path, verified=False):
        saved = _metadata(path).metadata
        _check_shapes(path, saved["params"], abstract_params)
        wanted = jax.tree.map(lambda _: ocp.PLACEHOLDER, saved)
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


@contextlib.contextmanager
def _reading(path: Path, verified: bool) -> Iterator[None]:
    """Compares a checkpoint with its hashes; what then fails is no damage.

    Without hashes, damage is what Orbax fails at, in one of many ways.
    """
    verified = verified or verify(path.parent, int(path.name))
    try:
        with _one_copy():
            yield
    except UserError:
        raise
    except Exception as error:
        if verified:
            raise
        raise DamagedError(path, f"cannot be read ({first_line(error)})") from error


def _metadata(path: Path) -> Any:
    """What Orbax says of a checkpoint; without it, shapes could not be compared."""
    metadata = ocp.metadata(path)
    if metadata.metadata is None:
        raise DamagedError(path, "does not say which arrays it holds")
    return metadata


def _remove_partial(folder: Path) -> None:
    """Removes what killed processes left in ``folder``: names that we and Orbax give.

    Anything else stays: a checkpoint that lacks a file may be all that there is, and so
    may one that was put aside for another that never came.
    """
    for path in folder.iterdir():
        ours = path.suffix == WRITING or (
            path.suffix == REPLACED and path.with_suffix("").exists()
        )
        if path.is_dir() and (ours or ".orbax-checkpoint-tmp" in path.name):
            shutil.rmtree(path, ignore_errors=True)


def _one_copy() -> ocp.Context:
    """Orbax without a second copy of the state: we wait for it, nothing else writes."""
    context = ocp.Context()
    context.memory.deepcopy_host_arrays = False
    context.memory.write_concurrent_bytes = IN_FLIGHT
    context.memory.read_concurrent_bytes = IN_FLIGHT
    context.array.saving.use_compression = False  # noise does not shrink
    return context


@contextlib.contextmanager
def _one_report() -> Iterator[None]:
    """Keeps Orbax's threads from logging a refusal of the disk, which is raised too."""
    logger = logging.getLogger("absl")

    def tells_more(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not (error and storage.refusal(error))

    logger.addFilter(tells_more)
    try:
        yield
    finally:
        logger.removeFilter(tells_more)


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
