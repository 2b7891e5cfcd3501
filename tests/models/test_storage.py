"""A folder takes another's place; a kill at any time loses neither."""

import errno
import os

import pytest

from models.storage import replace_folder


def folder(path, says):
    path.mkdir()
    (path / "file").write_text(says)
    return path


def contents(parent):
    return {path.name: (path / "file").read_text() for path in parent.iterdir()}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("older", [False, True])
def test_killed_at_any_rename_both_folders_are_still_there(
    tmp_path, monkeypatch, older
):
    renames, kept = 0, []
    for last in range(3):
        parent = tmp_path / str(last)
        parent.mkdir()
        new, place = folder(parent / "new", "new"), parent / "place"
        if older:
            folder(place, "old")
        renames, rename = 0, os.rename

        def killed(source, target, last=last, rename=rename, **more):
            nonlocal renames
            renames += 1
            if renames > last:
                raise Killed
            return rename(source, target, **more)

        with monkeypatch.context() as patched:
            patched.setattr(os, "rename", killed)
            patched.setattr(os, "replace", killed)
            try:
                replace_folder(new, place)
            except Killed:
                kept.append(contents(parent))
        # Whatever was left, the same again ends in the same state.
        if not new.exists():
            folder(new, "new")
        replace_folder(new, place)
        assert contents(parent) == {"place": "new"}
    if older:
        before = {"new": "new", "place": "old"}
        assert kept == [before, {"new": "new", "place.replaced": "old"}]
    else:
        assert kept == [{"new": "new"}]


def test_a_disk_that_refuses_the_new_folder_leaves_the_older_one(tmp_path, monkeypatch):
    new, place = folder(tmp_path / "new", "new"), folder(tmp_path / "place", "old")
    rename, refused = os.rename, []

    def refuse_once(source, target, **more):
        if str(source) == str(new) and not refused:
            refused.append(target)
            raise OSError(errno.EIO, "refused")
        return rename(source, target, **more)

    monkeypatch.setattr(os, "rename", refuse_once)
    with pytest.raises(OSError, match="refused"):
        replace_folder(new, place)
    assert refused and contents(tmp_path) == {"new": "new", "place": "old"}
    replace_folder(new, place)
    assert contents(tmp_path) == {"place": "new"}
