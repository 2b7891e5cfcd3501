"""The sharding table: every parameter known, sizes respected, meshes checked."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from models import forward, sharding
from models.config import DecoderConfig


def test_mesh_has_auto_axes_and_takes_only_the_devices_it_needs():
    mesh = sharding.make_mesh(fsdp=2)
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert mesh.devices.size == 2
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}


def test_a_mesh_larger_than_the_machine_is_refused_with_the_numbers():
    with pytest.raises(ValueError, match="needs 64 devices, but 4 are visible"):
        sharding.make_mesh(fsdp=64)


def test_every_parameter_of_a_model_is_in_the_table(tiny_config, tiny_params):
    mesh = sharding.make_mesh(fsdp=2, tensor=2)
    shardings = sharding.param_shardings(tiny_params, mesh)
    shapes = forward.shapes(tiny_config)
    assert shardings == sharding.param_shardings(shapes, mesh)
    blocks = shardings["blocks"]
    assert shardings["embed"].spec == P("tensor", "fsdp")
    assert blocks["attn"]["q"].spec == P(None, "fsdp", "tensor", None)
    assert blocks["mlp"]["down"].spec == P(None, "tensor", "fsdp")


def test_every_family_and_bias_is_in_the_table():
    shape = dict(
        vocab_size=64,
        num_layers=4,
        hidden_size=32,
        intermediate_size=48,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        tie_embeddings=False,
    )
    mesh = sharding.make_mesh(fsdp=2, tensor=2)
    llama = DecoderConfig(
        model_type="llama", attention_bias=True, mlp_bias=True, **shape
    )
    blocks = sharding.param_shardings(forward.shapes(llama), mesh)["blocks"]
    assert blocks["mlp"]["gate_bias"].spec == P(None, "tensor")
    assert blocks["mlp"]["down_bias"].spec == P(None, None)
    assert blocks["attn"]["o_bias"].spec == P(None, None)
    olmo3 = DecoderConfig(model_type="olmo3", **shape)
    attn = sharding.param_shardings(forward.shapes(olmo3), mesh)["blocks"]["attn"]
    assert attn["q_norm_all"].spec == P(None, "tensor", None)
    # The norm over all heads, which are on several devices, and the windows: the same
    # numbers as on one.
    olmo3 = replace(olmo3, window=5, window_layers=(True, True, True, False))
    params = jax.jit(forward.init, static_argnums=0)(olmo3, jax.random.key(0))
    tokens = np.arange(32).reshape(2, 16)
    run = jax.jit(forward.forward, static_argnums=1)
    placed = jax.device_put(params, sharding.param_shardings(params, mesh))
    one, four = run(params, olmo3, tokens), run(placed, olmo3, tokens)
    np.testing.assert_allclose(one, four, atol=1e-4 * np.std(one))


def test_an_axis_that_does_not_divide_is_left_out():
    mesh = sharding.make_mesh(tensor=4)
    spec = sharding.param_spec("k", (2, 32, 2, 8), mesh)
    assert spec == P(None, "fsdp", None, None)


def test_an_unknown_parameter_is_named():
    with pytest.raises(ValueError, match="'router'"):
        sharding.param_spec("router", (2, 3), sharding.make_mesh())


def test_micro_batches_are_cut_along_rows():
    mesh = sharding.make_mesh(data=2, fsdp=2)
    assert sharding.batch_sharding(mesh, leading=1).spec == P(None, ("data", "fsdp"))
    assert sharding.row_shards(mesh) == 4
