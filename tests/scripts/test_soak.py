"""A soak of a few seconds: what it asks is answered, what it measures measured."""

import random

import pytest

import soak


def test_a_soak_of_a_few_seconds(capsys):
    # Memory is judged by a soak of an hour: so short a one is still growing.
    code = soak.main(["--minutes", "0.1", "--exchange", "2", "--growth", "1"])
    said = capsys.readouterr().out
    assert code == 0, said
    assert "exchange 200" in said and "ids 200" in said
    assert " 0 since then" in said and said.endswith("0 wrong\n")


def test_the_slope_is_that_of_a_line_whatever_single_points_say():
    draw = random.Random(0)
    points = [(float(x), 500 + 0.25 * x + draw.uniform(-1, 1)) for x in range(200)]
    points[20] = points[150] = (points[20][0], 9000.0)
    assert soak.slope(points) == pytest.approx(0.25, abs=0.02)
    assert soak.slope([(float(x), 7.0) for x in range(10)]) == 0
    assert soak.slope([(3.0, 7.0)]) == 0


@pytest.mark.parametrize(
    ("grows", "compiled", "wrong"),
    [(0.0, 3.0, 0), (1.0, 3.0, 1), (0.0, 4.0, 1), (1.0, 4.0, 2), (-1.0, 3.0, 0)],
)
def test_what_grows_or_is_compiled_is_wrong(grows, compiled, wrong, capsys):
    seen = soak.Seen(waits=[0.001] * 60, compiled=[3.0] * 59 + [compiled])
    seen.memory = [(float(x), 100 + grows * x) for x in range(60)]
    found = soak.verdict(seen, soak.Options(minutes=1, growth=0.1))
    assert len(found) == wrong and "MB an hour" in capsys.readouterr().out
