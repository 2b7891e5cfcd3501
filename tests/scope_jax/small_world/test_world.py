import itertools
import json

import pytest

from retrieval.passages import Passages
from scope_jax.small_world import assets, world
from scope_jax.small_world.world import Fact


@pytest.fixture(scope="module")
def small_world():
    return world.generate()


def test_generation_is_a_function_of_the_seed(small_world):
    world.generate.cache_clear()
    assert world.generate() == small_world
    assert world.generate(seed=8) != small_world


def test_facts_point_at_other_entities_of_the_right_kind(small_world):
    for entity in small_world.entities:
        assert len(entity.facts) == world.FACTS_PER_ENTITY
        assert len({fact.relation for fact in entity.facts}) == len(entity.facts)
        for fact in entity.facts:
            assert fact.entity == entity.name != fact.value
            target = world.RELATIONS[entity.kind][fact.relation]
            assert small_world.by_name[fact.value].kind == target


def test_names_are_unique_and_none_begins_another(small_world):
    names = sorted(entity.name for entity in small_world.entities)
    assert len(set(names)) == len(names) == 2400
    # In sorted order a prefix stands right before what it begins.
    for first, second in itertools.pairwise(names):
        assert not second.startswith(first)


def test_relation_words_belong_to_one_kind():
    words = [name for found in world.RELATIONS.values() for name in found]
    assert len(set(words)) == len(words)


def test_passages_are_written_once_and_read_by_the_retriever(small_world, tmp_path):
    path = assets.passages_path(tmp_path)
    before = path.stat().st_mtime_ns
    assert assets.passages_path(tmp_path) == path
    assert path.stat().st_mtime_ns == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    passages = Passages(path, cache_dir=tmp_path / "cache")
    assert len(passages) == 2400
    first = small_world.entities[0]
    assert (passages[0].title, passages[0].text) == (first.name, first.text)


def test_another_world_has_another_passages_file(tmp_path, monkeypatch):
    usual = assets.passages_path(tmp_path)
    other = world.generate(seed=8, per_kind=20)
    monkeypatch.setattr(assets, "generate", lambda: other)
    path = assets.passages_path(tmp_path)
    assert path != usual
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == list(other.passages())


def test_heldout_tasks_are_chains_that_start_at_heldout_entities(small_world):
    tasks = world.heldout_tasks(30, seed=3)
    assert tasks == world.heldout_tasks(30, seed=3) != world.heldout_tasks(30, seed=4)
    for index, task in enumerate(tasks):
        assert len(task.facts) == 3
        assert len(task.entities) == index % 3 + 1
        assert small_world.by_name[task.entities[0]].heldout
        for here, onward in itertools.pairwise(task.entities):
            values = {fact.value for fact in small_world.by_name[here].facts}
            assert onward in values
        for fact in task.facts:
            assert fact in small_world.by_name[fact.entity].facts
            assert f"{fact.entity}'s {fact.relation} is _" in task.text
            assert fact.value in task.entities or fact.value not in task.text


A = Fact("Bakorn", "river", "Olela")
B = Fact("Bakorn", "guild", "Tesark")


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
    assert world.wanted_facts_stated(answer, [A, B]) == score


def test_a_task_without_wanted_facts_has_no_score():
    with pytest.raises(ValueError, match="facts is empty"):
        world.wanted_facts_stated("x", [])
