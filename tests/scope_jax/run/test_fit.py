"""Sizes for one card: what is chosen fits, and what can't fit is one line."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import configs
from models.errors import UserError
from models.hf.published import PUBLISHED
from scope_jax.run.fit import SLOTS, fitted
from scope_jax.run.plan import plan
from scope_jax.run.sizes import one_base

ROOT = Path(__file__).resolve().parents[3]
ONE_CARD = ("qwen3_0_6b", "llama32_1b", "qwen3_1_7b", "qwen3_4b")


@pytest.mark.parametrize("name", ONE_CARD)
def test_a_configuration_for_one_card_fits_24_gb_with_both_processes(name):
    config = configs.load(name)
    assert config.model.path in PUBLISHED and one_base(config)
    found = plan(config)
    found.check()
    placement = config.placement
    assert placement.trainer.memory_gb == placement.inference.memory_gb == 24
    assert placement.left_bytes > 1e9  # for what JAX does not allocate
    # The judge and the previous Solver are in the trainer's engine.
    assert all(p.name.startswith("trainer") for p in found.programs)


@pytest.mark.parametrize("gigabytes", [24, 48, 80])
@pytest.mark.parametrize("name", ONE_CARD)
def test_what_is_chosen_fits_and_a_step_more_does_not(name, gigabytes):
    config, said = fitted(configs.load(name), gigabytes)
    found = plan(config)
    found.check()
    assert config.placement.trainer.memory_gb == gigabytes
    trained = "adapters of rank 32" if config.lora.rank else "whole weights"
    assert trained in said and f"{config.engine.slots} slots" in said
    if config.engine.slots == SLOTS[0]:
        return
    engine, served = config.engine, config.inference.engine
    more = [
        replace(e, slots=2 * e.slots, cache_tokens=2 * e.cache_tokens)
        for e in (engine, served)
    ]
    inference = replace(config.inference, engine=more[1])
    with pytest.raises(UserError, match=r"needs .* GB"):
        plan(replace(config, engine=more[0], inference=inference)).check()


def test_whole_weights_are_trained_where_there_is_room():
    ranks = {
        (name, size): fitted(configs.load(name), size)[0].lora.rank
        for name in ("qwen3_0_6b", "qwen3_4b")
        for size in (24, 80)
    }
    assert ranks["qwen3_0_6b", 80] == 0
    assert ranks["qwen3_0_6b", 24] == ranks["qwen3_4b", 80] == 32


def test_the_rank_that_is_asked_for_is_kept():
    config = configs.load("qwen3_4b")
    config = replace(config, lora=replace(config.lora, rank=8))
    assert fitted(config, 24)[0].lora.rank == 8


def placed(**changes):
    """A configuration for one card, with other devices or shares of it."""
    config = configs.load("qwen3_1_7b")
    processes = {
        name: replace(getattr(config.placement, name), **values)
        for name, values in changes.items()
    }
    return replace(config, placement=replace(config.placement, **processes))


def test_the_card_and_the_shares_that_are_asked_for_are_kept():
    """Card 0 and nearly all of it were taken, on a machine that others share."""
    asked = placed(
        trainer={"devices": "3", "memory_fraction": 0.6},
        inference={"devices": "3", "memory_fraction": 0.3},
    )
    config, _ = fitted(asked, 48)
    processes = config.placement.trainer, config.placement.inference
    assert [p.devices for p in processes] == ["3", "3"]
    assert [p.memory_fraction for p in processes] == [0.6, 0.3]
    plan(config).check()
    alone = placed(trainer={"devices": None}, inference={"devices": "2"})
    assert fitted(alone, 48)[0].placement.trainer.devices == "2"


@pytest.mark.parametrize(("ours", "theirs"), [("0", "1"), ("0,1", "0,1")])
def test_two_cards_are_no_card(ours, theirs):
    config = placed(trainer={"devices": ours}, inference={"devices": theirs})
    with pytest.raises(UserError, match=r"placement names .*: name one, or leave"):
        fitted(config, 48)


def test_a_card_that_is_too_small_is_one_line():
    with pytest.raises(UserError, match=r"trainer: .*needs [0-9.]+ GB of the 3.4 GB"):
        fitted(configs.load("qwen3_4b"), 4)


def test_several_devices_are_no_card():
    with pytest.raises(UserError, match="--memory 80: chooses the sizes for one card"):
        fitted(configs.load("qwen3_8b"), 80)


def test_the_command_prints_what_it_chose_before_the_plan():
    command = [sys.executable, str(ROOT / "scripts/train.py"), "--config", "qwen3_4b"]
    done = subprocess.run(
        [*command, "--memory", "24", "--plan"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("--memory 24: trains adapters of rank 32, 2 rows")
    assert "trainer: rollouts" in done.stdout
