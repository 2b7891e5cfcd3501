"""Tasks of the small world are written, read and scored alike."""

import itertools

import pytest

from scope_jax.small_world import tasks, world
from scope_jax.small_world.tasks import Subject, WorldTask, read_task
from scope_jax.small_world.world import Entity, Fact, World

A = Fact("Bakorn", "river", "Olela")
B = Fact("Bakorn", "guild", "Tesark")
C = Fact("Olela", "source", "Lumath")
D = Fact("Lumath", "twin", "Bakorn")
SMALL = World(
    (
        Entity(0, "Bakorn", "town", (A, B), "train"),
        Entity(1, "Olela", "river", (C,), "train"),
        Entity(2, "Lumath", "town", (D,), "train"),
    )
)


def test_described_entities_are_written_by_their_kind():
    subjects = (
        Subject("Bakorn", (B,)),
        Subject("Olela", (), via=A),
        Subject("Lumath", (D,), via=C),
    )
    task = WorldTask("writing", subjects)
    assert task.text == (
        "Report: Bakorn's guild is _, Bakorn's river is a river, "
        "that river's source is a town, that town's twin is _."
    )
    assert task.facts == (B, D)
    blanks = read_task(SMALL, task.text)
    assert [(blank.fact, blank.hops) for blank in blanks] == [(B, 1), (D, 3)]


def test_a_vague_subject_is_written_and_read_as_one():
    task = WorldTask("planning", (Subject("Bakorn", (B,), vague="The town"),))
    assert task.text == "Plan: The town's guild is _."
    (blank,) = read_task(SMALL, task.text)
    assert (blank.fact, blank.flaw) == (None, "vague")


@pytest.mark.parametrize(
    ("text", "flaws"),
    [
        ("Say: Bakorn's river is _, Bakorn's guild is _.", ["", ""]),
        ("Say: Bakorn's river is _, Bakorn's river is _.", ["", "repeated"]),
        ("Say: Bakorn's mouth is _.", ["impossible"]),
        ("Say: Nobody's mouth is _.", ["vague"]),
        ("Say: that river's mouth is _.", ["impossible"]),
        ("Say: Bakorn's twin is a town, that town's river is _.", ["impossible"]),
        ("Say: Bakorn's river is a river, that town's source is _.", ["impossible"]),
        (
            "Say: Bakorn's river is a river, that river's source is _, It's twin is _.",
            ["", "vague"],
        ),
        ("Say something.", []),
        ("", []),
    ],
)
def test_every_blank_is_read_with_its_flaw(text, flaws):
    assert [blank.flaw for blank in read_task(SMALL, text)] == flaws


@pytest.mark.parametrize("split", ["dev", "test"])
def test_heldout_tasks_are_chains_in_their_part_of_the_world(split):
    small_world = world.generate()
    found = tasks.heldout_tasks(60, 3, split)
    assert found == tasks.heldout_tasks(60, 3, split)
    assert found != tasks.heldout_tasks(60, 4, split)
    for index, task in enumerate(found):
        assert len(task.facts) == 3
        assert len(task.subjects) == index % 3 + 1
        names = [subject.name for subject in task.subjects]
        assert {small_world.by_name[name].split for name in names} == {split}
        for here, onward in itertools.pairwise(names):
            assert onward in {f.value for f in small_world.by_name[here].facts}
        blanks = read_task(small_world, task.text)
        assert tuple(blank.fact for blank in blanks) == task.facts
        for subject in task.subjects:
            assert (subject.name in task.text) == (subject.via is None)
    described = [any(s.via for s in task.subjects) for task in found]
    assert 10 < sum(described) < 30


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("Bakorn's river is Olela. Bakorn's guild is Tesark.", 1.0),
        ("I think Bakorn's guild is Tesark", 0.5),
        ("Bakorn's river is Tesark. Bakorn's guild is Olela.", 0.0),
        ("Lumath's river is Olela.", 0.0),
        ("Bakorn's river is Olela. Bakorn's river is Suwela.", 0.0),
        ("Bakorn's river is Olelas.", 0.0),
        ("Olela Tesark", 0.0),
        ("", 0.0),
    ],
)
def test_score_is_the_share_of_wanted_facts_stated(answer, score):
    assert tasks.true_score(answer, [A, B]) == score


def test_a_task_without_wanted_facts_has_no_score():
    with pytest.raises(ValueError, match="facts is empty"):
        tasks.true_score("x", [])
