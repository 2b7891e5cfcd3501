"""Models are weakened by a fixed number of points, and to the same bits every time."""

import json
import math

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ablation import probes, weaken
from models import checksums, hf
from models.errors import UserError


def write_model(folder):
    """Two tensors, one of them in half precision, and a file that is none."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    tensors = {"a": rng.normal(0, 2, (40, 30)).astype(np.float16)}
    tensors["b"] = rng.normal(0, 0.1, (50, 20)).astype(np.float32)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    checksums.record_folder(folder)


def falling(share):
    """0.9 without noise, one half with a lot of it."""
    return 0.5 + 0.4 * math.exp(-share)


@pytest.mark.parametrize("steepness", [0.5, 3.0, 30.0])
def test_the_share_lowers_accuracy_by_the_drop(steepness):
    tried = []

    def accuracy(share):
        tried.append(share)
        return falling(steepness * share)

    share, after = weaken.share_for(accuracy, falling(0))
    assert after == falling(steepness * share)
    assert after == pytest.approx(0.75, abs=0.005)
    assert len(tried) <= weaken.DOUBLINGS + weaken.HALVINGS


def test_what_no_noise_lowers_is_one_line():
    with pytest.raises(UserError, match=r"accuracy 0\.900: no noise lowers it to 0\.7"):
        weaken.share_for(lambda share: 0.9, 0.9)


def test_noise_is_the_same_every_time_and_as_large_as_asked(tmp_path):
    write_model(tmp_path / "model")
    for name in ("a", "b"):
        weaken.add_noise(tmp_path / "model", tmp_path / name, 0.1)
    weaken.add_noise(tmp_path / "model", tmp_path / "zero", 0.0)
    hashes = [hf.content_hash(str(tmp_path / name)) for name in ("a", "b", "zero")]
    assert hashes[0] == hashes[1]
    assert checksums.verify_folder(tmp_path / "a")  # not with the hashes of "model"
    before, after, zero = (
        load_file(tmp_path / name / "model.safetensors")
        for name in ("model", "a", "zero")
    )
    for name, tensor in before.items():
        np.testing.assert_array_equal(tensor, zero[name])
        change = np.std(after[name] - tensor) / np.std(tensor)
        assert change == pytest.approx(0.1, rel=0.1)
        assert after[name].dtype == tensor.dtype
    assert (tmp_path / "a" / "config.json").read_text() == "{}"


def test_a_weakened_model_is_made_once_and_says_how(tmp_path):
    write_model(tmp_path / "model")
    clean = load_file(tmp_path / "model" / "model.safetensors")
    measured = []

    def accuracy(folder):
        """By the distance from the real weights, as if it mattered."""
        measured.append(folder)
        found = load_file(folder / "model.safetensors")
        change = np.std(found["b"] - clean["b"]) / np.std(clean["b"])
        return falling(float(change))

    cache = tmp_path / "cache"
    folder = weaken.weakened(tmp_path / "model", "grades", accuracy, cache)
    assert folder == weaken.place(tmp_path / "model", "grades", cache)
    record = weaken.record(folder)
    assert record.before - record.after == pytest.approx(0.15, abs=0.005)
    assert accuracy(folder) == pytest.approx(record.after)
    count = len(measured)
    assert weaken.weakened(tmp_path / "model", "grades", accuracy, cache) == folder
    assert len(measured) == count
    assert [path.name for path in cache.iterdir()] == [folder.name]
    assert json.loads((folder / weaken.RECORD).read_text())["share"] == record.share


def test_a_failure_leaves_nothing(tmp_path):
    write_model(tmp_path / "model")
    with pytest.raises(UserError):
        weaken.weakened(tmp_path / "model", "x", lambda folder: 0.9, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_output_is_scored_by_what_was_wanted():
    def rubrics(*texts):
        lines = "".join(f"<rubric>{text}</rubric>" for text in texts)
        return f"<rubrics>{lines}</rubrics>"

    wanted = rubrics("a", "b", "c")
    assert probes.rubrics_true(wanted, wanted) == 1
    assert probes.rubrics_true(rubrics("a", "x", "b", "y"), wanted) == 0.5
    assert probes.rubrics_true("nothing", wanted) == 0
    yes, no = "<score>1</score>", "so: <score>0</score>"
    assert probes.grade_right(yes, yes) == probes.grade_right(no, no) == 1
    assert probes.grade_right(yes, no) == probes.grade_right("?", no) == 0
