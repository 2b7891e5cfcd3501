"""The generated small world: entities, names, facts, documents, passages file."""

import itertools
import json

import numpy as np
import pytest

from retrieval.passages import Passages
from scope_jax.small_world import assets, world


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
    assert len(set(names)) == len(names) == 1200
    # In sorted order a prefix stands right before what it begins.
    for first, second in itertools.pairwise(names):
        assert not second.startswith(first)


def test_no_document_leads_to_another_part_of_the_world(small_world):
    sizes = {split: len(found) for split, found in small_world.parts.items()}
    assert sizes == {"train": 960, "dev": 120, "test": 120}
    order = [entity.split for entity in small_world.entities]
    assert order == sorted(order, key=world.SPLITS.index)
    for entity in small_world.entities:
        for fact in entity.facts:
            assert small_world.by_name[fact.value].split == entity.split


def test_other_facts_about_the_same_entities(small_world):
    other = world.generate(facts_seed=(1,))
    assert other == world.generate(facts_seed=(1,)) != world.generate(facts_seed=(2,))
    assert {e.name: (e.kind, e.split) for e in other.entities} == {
        e.name: (e.kind, e.split) for e in small_world.entities
    }
    same = [other.values.get(fact) == v for fact, v in small_world.values.items()]
    assert np.mean(same) < 0.02


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
    assert len(passages) == 1200
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
