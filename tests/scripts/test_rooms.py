"""The picture of the rooms is that of the code, and the code keeps to its sizes."""

import runpy
from itertools import pairwise
from pathlib import Path

import pytest

from models.errors import UserError
from pages import rooms, source

ROOT = Path(__file__).parents[2]
FILES = source.read(ROOT)


@pytest.mark.parametrize(
    "name", ["families.md", "method.md", "options.md", "rooms.md", "rooms.svg"]
)
def test_the_committed_page_is_up_to_date(name):
    script = runpy.run_path(str(ROOT / "scripts" / "docs.py"))
    committed = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert committed == script["build"]()[name], "run python scripts/docs.py"


def test_no_import_goes_in_a_circle_and_none_goes_up():
    for below in (source.imports(FILES), source.between_rooms(FILES)):
        height = source.floors(below)
        assert height.keys() == below.keys()
        for name, imported in below.items():
            assert all(height[other] < height[name] for other in imported)


def test_a_circle_is_named():
    below = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}
    with pytest.raises(UserError, match="b, c, b: import one another"):
        source.floors(below)


def test_an_import_that_a_longer_way_implies_is_not_drawn():
    below = {"a": {"b", "c"}, "b": {"c"}, "c": set(), "d": {"c"}}
    assert source.direct(below) == [("a", "b"), ("b", "c"), ("d", "c")]


def test_boxes_of_a_floor_never_overlap():
    spots, ways = rooms.places(source.between_rooms(FILES))
    boxes = [(n, x) for spot, (x, n) in spots.items() if isinstance(spot, str)]
    for n in {n for n, _ in boxes}:
        row = sorted(x for floor, x in boxes if floor == n)
        assert all(b - a > rooms.WIDE for a, b in pairwise(row))
    assert {way[0] for way in ways} | {way[-1] for way in ways} == set(
        source.between_rooms(FILES)
    )


def test_lines_of_code_are_no_blank_comment_or_docstring_lines(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "__init__.py").write_text('"""Nothing.\n\nBut words.\n"""\n')
    (folder / "some.py").write_text(
        '"""Some."""\n\nimport models.other\n\n\ndef f(\n    x,\n):\n'
        '    """Doc."""\n    # why\n    return """a\nb"""\n\n\nX = 1  # said\n'
    )
    (folder / "other.py").write_text("from models import some\n")
    files = source.read(tmp_path)
    assert {name: len(file.lines) for name, file in files.items()} == {
        "models": 0,
        "models.other": 1,
        "models.some": 7,
    }
    assert list(files["models.some"].functions()) == [("f", 5)]
    assert source.imports(files)["models.some"] == {"models.other"}
    assert source.imports(files)["models.other"] == {"models.some"}
    assert source.count(files).splitlines()[0].split() == ["8", "models"]


def test_no_file_is_longer_than_350_lines():
    long = {f.path for f in FILES.values() if f.height > source.LONG_FILE}
    assert long == set()


def test_no_function_has_more_than_60_lines_of_code():
    long = {
        f"{file.path}: {name}"
        for file in FILES.values()
        for name, lines in file.functions()
        if lines > source.LONG_FUNCTION
    }
    assert long == set()
