"""The sharding table: every parameter known, sizes respected, meshes checked."""

import jax
import pytest
from jax.sharding import PartitionSpec as P

from models import sharding


def test_mesh_has_auto_axes_and_takes_only_the_devices_it_needs():
    mesh = sharding.make_mesh(fsdp=2)
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert mesh.devices.size == 2
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}


def test_a_mesh_larger_than_the_machine_is_refused_with_the_numbers():
    with pytest.raises(ValueError, match="needs 64 devices and 4 are visible"):
        sharding.make_mesh(fsdp=64)


def test_every_parameter_of_a_model_is_in_the_table(tiny_config, tiny_params):
    mesh = sharding.make_mesh(fsdp=2, tensor=2)
    shardings = sharding.param_shardings(tiny_params, mesh)
    assert shardings == sharding.param_shardings(tiny_config, mesh)
    blocks = shardings["blocks"]
    assert shardings["embed"].spec == P("tensor", "fsdp")
    assert blocks["attn"]["q"].spec == P(None, "fsdp", "tensor", None)
    assert blocks["mlp"]["down"].spec == P(None, "tensor", "fsdp")


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
