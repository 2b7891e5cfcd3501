"""A model folder takes an older one's place: whole, or the older one stays."""

import errno
import multiprocessing
import os
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from models import hf
from models.config import DecoderConfig
from models.errors import UserError


def test_a_failed_save_leaves_nothing_and_keeps_what_was_there(
    tiny_config, tiny_params, tmp_path
):
    hf.save(tmp_path / "model", tiny_config, tiny_params)
    before = hf.content_hash(tmp_path / "model")
    broken = tiny_params | {"final_norm": np.ones(5, np.float32)}
    with pytest.raises(ValueError):
        hf.save(tmp_path / "model", tiny_config, broken)
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    assert hf.content_hash(tmp_path / "model") == before
    changed = jax.tree.map(lambda x: x + 1, tiny_params)
    hf.save(tmp_path / "model", tiny_config, changed)
    assert hf.content_hash(tmp_path / "model") != before
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("fails", ["once", "to the end"])
def test_an_error_between_the_two_renames_keeps_the_older_folder(
    tiny_config, tiny_params, tmp_path, monkeypatch, fails
):
    place = tmp_path / "model"
    hf.save(place, tiny_config, tiny_params)
    before, rename, failed = hf.content_hash(place), os.rename, []

    def failing(source, target, **more):
        if Path(target) == place and (fails == "to the end" or not failed):
            failed.append(source)
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(source))
        return rename(source, target, **more)

    changed = jax.tree.map(lambda x: x + 1, tiny_params)
    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", failing)
        with pytest.raises(UserError, match="can't be written") as caught:
            hf.save(place, tiny_config, changed)
    assert failed and "\n" not in str(caught.value)
    if fails == "to the end":  # as after a kill: the next save puts it back
        assert not place.exists()
        with pytest.raises(ValueError, match="final_norm"):
            hf.save(place, tiny_config, {"embed": tiny_params["embed"]})
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    assert hf.content_hash(place) == before
    hf.verify(place)
    hf.save(place, tiny_config, changed)
    assert hf.content_hash(place) != before


def _save_and_hang(path, started):
    """Runs in a process that is killed in the middle of a save."""
    from models.hf import saving as hf_save

    def hang(folder, *rest):
        (folder / "model.safetensors").write_bytes(b"half")
        started.set()
        time.sleep(60)

    hf_save._write_tensors = hang
    shape = dict(vocab_size=8, num_layers=1, hidden_size=4, intermediate_size=4)
    heads = dict(num_heads=1, num_kv_heads=1, head_dim=4)
    config = DecoderConfig(model_type="llama", **shape, **heads)
    hf_save.save(path, config, {})


def test_what_a_killed_save_left_goes_with_the_next_but_not_a_living_ones(
    tiny_config, tiny_params, tmp_path
):
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    writer = context.Process(target=_save_and_hang, args=(tmp_path / "model", started))
    writer.start()
    try:
        assert started.wait(60)
        drafts = set(tmp_path.iterdir())
        assert len(drafts) == 1
        hf.save(tmp_path / "model", tiny_config, tiny_params)
        assert set(tmp_path.iterdir()) == drafts | {tmp_path / "model"}
    finally:
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
    hf.save(tmp_path / "model", tiny_config, tiny_params)
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
