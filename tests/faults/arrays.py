"""A checkpoint's arrays through Python: what stands for Orbax, which writes in C++.

It makes the same kinds of files in the same order, so that each write is a point.
"""

import json
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax


class Orbax:
    """``orbax.checkpoint.v1`` as ``rl.learner.checkpoint`` uses it.

    As Orbax does it: a folder of another name, a file after the other, and a rename.
    """

    PLACEHOLDER = None

    @staticmethod
    def Context() -> Any:
        return _Context()

    @staticmethod
    def save(path, state, *, custom_metadata, overwrite) -> None:
        path = Path(path)
        if overwrite and path.exists():
            shutil.rmtree(path)
        draft = path.with_name(f"{path.name}.orbax-checkpoint-tmp")
        if draft.exists():
            shutil.rmtree(draft)
        (draft / "state/d").mkdir(parents=True)
        (draft / "orbax.checkpoint").write_text("{}")
        leaves = jax.tree.leaves(state)
        for number, part in enumerate((leaves[::2], leaves[1::2])):
            (draft / f"state/d/{number}").write_bytes(pickle.dumps(part))
        shapes = [(leaf.shape, leaf.dtype.str) for leaf in leaves]
        (draft / "state/_METADATA").write_bytes(pickle.dumps(shapes))
        text = json.dumps({"custom_metadata": custom_metadata})
        (draft / "_CHECKPOINT_METADATA").write_text(text)
        draft.rename(path)

    @staticmethod
    def metadata(path) -> Any:
        shapes = pickle.loads((Path(path) / "state/_METADATA").read_bytes())
        custom = json.loads((Path(path) / "_CHECKPOINT_METADATA").read_text())
        return SimpleNamespace(metadata=shapes, **custom)

    @staticmethod
    def load(path, abstract) -> Any:
        parts = [
            pickle.loads((Path(path) / f"state/d/{number}").read_bytes())
            for number in (0, 1)
        ]
        leaves = [parts[i % 2][i // 2] for i in range(sum(map(len, parts)))]
        return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


class _Context:
    def __init__(self):
        self.memory, self.array = SimpleNamespace(), SimpleNamespace()
        self.array.saving = SimpleNamespace()

    def __enter__(self) -> "_Context":
        return self

    def __exit__(self, *exception: Any) -> None:
        pass


def shapes_of(tree: Any) -> dict[str, tuple]:
    """``checkpoint._shapes`` of a state, and of what ``Orbax.metadata`` says of it."""
    leaves = tree if isinstance(tree, list) else jax.tree.leaves(tree)
    shapes = [leaf[0] if isinstance(leaf, tuple) else leaf.shape for leaf in leaves]
    return {str(number): tuple(shape) for number, shape in enumerate(shapes)}
