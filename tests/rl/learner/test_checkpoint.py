"""Checkpoints: bit-equal, atomic, on any mesh, and only as many as asked."""

import errno
import os
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from models import sharding
from models.errors import DamagedError, StorageError, UserError
from rl.learner import checkpoint
from rl.learner.config import UpdateConfig
from rl.learner.losses import LossConfig
from rl.learner.optimizer import OptimizerConfig
from rl.learner.update import Updater


@pytest.fixture(scope="module")
def updater_of(tiny_config):
    def make(fsdp, config=tiny_config):
        shape = UpdateConfig(length=16, rows=4)
        mesh = sharding.make_mesh(fsdp=fsdp)
        return Updater(config, LossConfig(), OptimizerConfig(), shape, mesh)

    return make


@pytest.fixture(scope="module")
def state(updater_of, tiny_params):
    state = updater_of(1).states.init(tiny_params)
    noise = lambda x: x + np.float32(0.1) if x.dtype == np.float32 else x + 3  # noqa: E731
    return jax.tree.map(noise, state)


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.mark.parametrize("fsdp", [1, 4])
def test_restore_is_bit_equal_also_on_another_mesh(fsdp, updater_of, state, tmp_path):
    meta = {"stage": "solver", "seed": 42, "none": None}
    checkpoint.save(tmp_path / "c", 7, state, meta=meta)
    updater = updater_of(fsdp)
    got, got_meta, step = checkpoint.restore(tmp_path / "c", updater.states.abstract())
    assert (got_meta, step) == (meta, 7)
    assert_equal(got, state)
    assert isinstance(got.opt_state, optax.ScaleByAdamState)
    wanted = jax.tree.leaves(updater.states.shardings)
    for leaf, named in zip(jax.tree.leaves(got), wanted, strict=True):
        assert leaf.sharding == named


def test_the_last_ones_and_the_permanent_ones_stay(tmp_path):
    for step in range(1, 8):
        tree = {"x": np.full(3, step)}
        checkpoint.save(tmp_path, step, tree, keep=2, keep_every=3)
    assert checkpoint.steps(tmp_path) == [3, 6, 7]
    assert checkpoint.latest(tmp_path) == 7


def test_what_a_killed_process_left_is_ignored_then_removed(tmp_path):
    checkpoint.save(tmp_path, 4, {"x": np.arange(3)})
    for name in ("5.orbax-checkpoint-tmp-17", "5.writing", "4.replaced"):
        (tmp_path / name / "state").mkdir(parents=True)
    assert checkpoint.latest(tmp_path) == 4
    checkpoint.save(tmp_path, 5, {"x": np.arange(3)})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["4", "5"]


def test_what_a_kill_between_two_renames_left_is_found(tmp_path):
    checkpoint.save(tmp_path, 4, {"x": np.arange(3)})
    (tmp_path / "4").rename(tmp_path / "4.replaced")
    assert checkpoint.newest_whole(tmp_path, pytest.fail) == 4


def flip(file, bit):
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def test_every_flipped_bit_is_refused_and_its_file_named(tmp_path):
    """Also in the middle of the numbers, which read as others."""
    state = {"params": {"a": np.arange(20_000.0)}, "b": np.arange(7)}
    checkpoint.save(tmp_path, 1, state)
    files = [f for f in (tmp_path / "1").rglob("*") if f.is_file() and f.stat().st_size]
    data = max(files, key=lambda file: file.stat().st_size)
    rng = np.random.default_rng(0)
    for file in [*files, *[data] * 12]:
        bit = int(rng.integers(8 * file.stat().st_size))
        flip(file, bit)
        named = file.name if file.name != "SHA256SUMS" else "SHA256"
        with pytest.raises(DamagedError, match=named) as caught:
            checkpoint.restore(tmp_path, state)
        assert "\n" not in str(caught.value)
        with pytest.raises(DamagedError, match=named):
            checkpoint.restore_params(tmp_path, state["params"])
        flip(file, bit)
    checkpoint.restore(tmp_path, state)


def data_file(path):
    return max(path.rglob("d/*"), key=lambda file: file.stat().st_size)


DAMAGE = {
    "cut": lambda path: data_file(path).write_bytes(b"half"),
    "zeroed": lambda path: data_file(path).write_bytes(
        bytes(data_file(path).stat().st_size)
    ),
    "deleted": lambda path: data_file(path).unlink(),
    "metadata emptied": lambda path: (path / "_CHECKPOINT_METADATA").write_bytes(b""),
    "array metadata emptied": lambda path: (path / "state/_METADATA").write_bytes(b""),
    "marker deleted": lambda path: (path / "orbax.checkpoint").unlink(),
    "hashes emptied": lambda path: (path / "SHA256SUMS").write_bytes(b""),
    "all deleted": lambda path: [f.unlink() for f in path.rglob("*") if f.is_file()],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_the_newest_whole_one_is_found_and_the_damaged_one_kept(tmp_path, damage):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {"x": np.full(999, step)})
    damage(tmp_path / "2")
    before = {f.name for f in (tmp_path / "2").rglob("*")}
    told = []
    assert checkpoint.newest_whole(tmp_path, told.append) == 1
    (error,) = told
    assert "\n" not in str(error) and str(tmp_path / "2") in str(error)
    assert {f.name for f in (tmp_path / "2.damaged").rglob("*")} == before
    assert checkpoint.steps(tmp_path) == [1]
    got, _, _ = checkpoint.restore(tmp_path, {"x": np.zeros(999, int)})
    np.testing.assert_array_equal(got["x"], 1)
    checkpoint.save(tmp_path, 2, {"x": np.full(999, 2)})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]


def test_a_checkpoint_of_an_older_version_is_read(tmp_path):
    checkpoint.save(tmp_path, 1, {"x": np.arange(3)})
    (tmp_path / "1/SHA256SUMS").unlink()
    assert checkpoint.newest_whole(tmp_path, pytest.fail) == 1
    got, _, _ = checkpoint.restore(tmp_path, {"x": np.arange(3)})
    np.testing.assert_array_equal(got["x"], np.arange(3))
    (tmp_path / "1/state/_METADATA").write_bytes(b"")
    with pytest.raises(DamagedError, match="does not say which arrays"):
        checkpoint.restore(tmp_path, {"x": np.arange(3)})


def test_a_save_that_fails_leaves_the_last_checkpoint(tmp_path):
    checkpoint.save(tmp_path, 1, {"x": np.arange(3)})
    with pytest.raises(TypeError):
        checkpoint.save(tmp_path, 2, {"x": np.arange(3)}, meta={"bad": object()})
    assert checkpoint.steps(tmp_path) == [1]


def test_a_step_may_be_saved_again(tmp_path):
    checkpoint.save(tmp_path, 1, {"x": np.arange(3)})
    checkpoint.save(tmp_path, 1, {"x": np.arange(3) + 5})
    got, _, _ = checkpoint.restore(tmp_path, {"x": np.arange(3)})
    np.testing.assert_array_equal(got["x"], [5, 6, 7])


def test_a_disk_that_refuses_a_step_the_second_time_keeps_the_first(
    tmp_path, monkeypatch
):
    """Even one that refuses to put it back, until the next start finds it."""
    rename = os.rename
    for refused in (["5.writing"], ["5.writing", "5.replaced"]):
        folder = tmp_path / str(len(refused))
        checkpoint.save(folder, 5, {"x": np.arange(3)})

        def refuse(source, target, refused=refused, **more):
            if Path(source).name in refused:
                raise OSError(errno.EIO, "refused")
            return rename(source, target, **more)

        with monkeypatch.context() as patched, pytest.raises(StorageError):
            patched.setattr(os, "rename", refuse)
            checkpoint.save(folder, 5, {"x": np.zeros(3, int)})
        assert checkpoint.newest_whole(folder, lambda _: None) == 5
        found, _, _ = checkpoint.restore(folder, {"x": np.arange(3)})
        assert found["x"].tolist() == [0, 1, 2]


def test_no_checkpoint_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="has no checkpoint"):
        checkpoint.restore(tmp_path, {})
    assert checkpoint.latest(tmp_path / "nowhere") is None


def test_another_shape_is_refused(tmp_path):
    checkpoint.save(tmp_path, 1, {"x": np.arange(3.0)})
    message = r"array x has shape \(3,\), this model has \(4,\)"
    with pytest.raises(UserError, match=message):
        checkpoint.restore(tmp_path, {"x": np.arange(4.0)})


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"a": (3, 2), "b": (2, 3)}, r"a has shape \(2, 3\), this model has \(3, 2\)"),
        ({"a": (2, 3), "c": (3, 2)}, r"b has shape \(3, 2\), this model has none"),
        ({"a": (2, 3), "b": (3, 2), "c": (1,)}, r"c is missing, this model has \(1,\)"),
    ],
)
def test_shapes_are_compared_by_name(tmp_path, other, message):
    checkpoint.save(
        tmp_path, 1, {"params": {"a": np.ones((2, 3)), "b": np.ones((3, 2))}}
    )
    wanted = {name: np.zeros(shape) for name, shape in other.items()}
    with pytest.raises(UserError, match=message):
        checkpoint.restore(tmp_path, {"params": wanted})
    with pytest.raises(UserError, match=message):
        checkpoint.restore_params(tmp_path, wanted)
