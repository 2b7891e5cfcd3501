"""The memory worked out from shapes, beside what XLA says of compiled programs."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from models import forward, sharding
from models.cache import init_cache
from models.config import DecoderConfig
from models.lora import LoraConfig
from models.unstacked import unstack
from rl.engine.config import EngineConfig
from rl.engine.sampler import Sampler
from rl.engine.scoring import Scorer
from rl.learner.config import UpdateConfig
from rl.learner.losses import LossConfig
from rl.learner.optimizer import OptimizerConfig
from rl.learner.update import Updater
from scope_jax.run import memory

CONFIG = DecoderConfig(
    model_type="qwen3",
    vocab_size=2048,
    num_layers=4,
    hidden_size=128,
    intermediate_size=512,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    tie_embeddings=False,
)
SHAPE = UpdateConfig(length=64, rows=4, capacity=1, logit_chunk=16)


@pytest.mark.parametrize("mesh", [(1, 1, 1), (1, 4, 1)], ids=["one", "fsdp4"])
def test_the_update_takes_what_was_worked_out(mesh, compiled_here):
    updater = Updater(
        CONFIG, LossConfig(), OptimizerConfig(), SHAPE, sharding.make_mesh(*mesh)
    )
    updater.compile()
    found = updater.programs["update", 1].memory_analysis()
    kinds = memory.update(CONFIG, SHAPE, memory.mesh_of(*mesh), compute_bytes=4)
    held = ("weights", "optimizer", "reference", "batch")
    arguments = sum(kinds.pop(name) for name in held)
    assert found.argument_size_in_bytes == pytest.approx(arguments, rel=0.01)
    working = memory.total(kinds)
    print(f"{mesh}: {found.temp_size_in_bytes:,} of {working:,} worked out")
    assert 0.6 * working < found.temp_size_in_bytes < 1.1 * working


@pytest.mark.parametrize("engines", [False, True], ids=["stacked", "engine's"])
@pytest.mark.parametrize("rank", [0, 8])
def test_plan_and_compiled_update_are_within_ten_percent(rank, engines, compiled_here):
    """In all; with adapters also on the engine's own weights, layer by layer."""
    if engines and not rank:
        pytest.skip("whole weights are trained stacked")
    mesh, settings = sharding.make_mesh(), LoraConfig(rank=rank) if rank else None
    base = None
    if engines:
        base = jax.eval_shape(
            lambda params: unstack(params, CONFIG, weights_first=True),
            forward.shapes(CONFIG),
        )
        whole = sharding.replicated(mesh)
        base = jax.tree.map(lambda x: x.update(sharding=whole), base)
    updater = Updater(
        *(CONFIG, LossConfig(), OptimizerConfig(), SHAPE, mesh),
        lora=settings,
        base=base,
    )
    updater.compile()
    found = updater.programs["update", 1].memory_analysis()
    taken = found.argument_size_in_bytes + found.temp_size_in_bytes
    kinds = memory.update(
        CONFIG, SHAPE, memory.mesh_of(1, 1, 1), compute_bytes=4, settings=settings
    )
    assert memory.total(kinds) == pytest.approx(taken, rel=0.1)


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        ({}, {"max_length": 1300}),  # takes the room of 2048
        ({"intermediate_size": 2048}, {}),
        ({"num_heads": 16}, {}),
        ({"vocab_size": 150_000}, {}),
    ],
    ids=str,
)
def test_scoring_the_longest_text_takes_what_was_worked_out(
    model, sizes, compiled_here
):
    config = dataclasses.replace(CONFIG, **model)
    given = {"max_length": 1024, "prefill_chunk": 32, "page_size": 64} | sizes
    shape = EngineConfig(slots=4, **given)
    params = jax.eval_shape(
        lambda params: unstack(params, config, weights_first=True),
        forward.shapes(config),
    )
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    params = jax.tree.map(lambda x: x.update(sharding=here), params)
    sampler = Sampler(config=config, sizes=shape, valid_vocab=config.vocab_size)
    scorer = Scorer(sampler, params)
    scorer.prepare(shape.max_length)
    [compiled] = scorer._compiled.values()
    taken = compiled.memory_analysis().temp_size_in_bytes
    planned = memory.scoring(config, shape, compute_bytes=4)
    print(f"{model} {sizes}: {taken:,} of {planned:,} worked out")
    assert 0.6 * planned < taken < 1.05 * planned


def test_parameters_are_counted_as_they_are_made_and_cut(tiny_config, tiny_params):
    whole = sum(x.size for x in jax.tree.leaves(tiny_params))
    assert memory.parameters(tiny_config, memory.mesh_of(1, 1, 1)).whole == whole
    mesh = sharding.make_mesh(fsdp=2, tensor=2)
    placed = jax.device_put(tiny_params, sharding.param_shardings(tiny_params, mesh))
    local = sum(x.addressable_shards[0].data.size for x in jax.tree.leaves(placed))
    sizes = memory.parameters(tiny_config, memory.mesh_of(1, 2, 2))
    assert sizes.sharded == memory.parameters(tiny_config, mesh).sharded == local


def test_a_token_of_cache_takes_what_the_cache_takes(tiny_config):
    cache = init_cache(tiny_config, 3, 5, jnp.bfloat16)
    taken = sum(x.nbytes for x in jax.tree.leaves(cache))
    assert taken == 15 * memory.cache_bytes(tiny_config, compute_bytes=2)


def test_a_longer_row_needs_more_and_a_wider_mesh_less():
    def need(mesh=(1, 1, 1), **fields):
        shape = dataclasses.replace(SHAPE, **fields)
        kinds = memory.update(CONFIG, shape, memory.mesh_of(*mesh), compute_bytes=2)
        return memory.total(kinds)

    assert need(length=128) > need() > need(mesh=(1, 4, 1)) > 0
    remats = ("block", "attention", "dots", "none")
    needs = [need(remat=remat) for remat in remats]
    assert needs == sorted(needs) and len(set(needs)) == 4
