"""Every program of every configuration lowers for CUDA, on a machine without a GPU.

The shapes are those of a layer of the real model and of the configuration's engine and
update; only the number of layers is reduced. What lowering can't show: whether the
kernels then compile and run.
"""

import importlib.util
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

import configs
from models import cached_backends, forward
from models.errors import UserError
from models.hf.published import shape_of
from models.sharding import make_mesh
from models.unstacked import unstack
from rl.engine.sampler import Sampler
from rl.learner.update import Updater
from scope_jax.small_world.assets import resolve

H100 = SimpleNamespace(platform="gpu", compute_capability="9.0")
TARGETS = {"pallas": "__gpu$xla.gpu.triton", "fa3": "flash_mha_fwd"}
NAMES = [name for name in configs.names() if name != "ci"]
"""`ci` has the model and the engine of `tiny`."""
FAMILIES = (
    "google/gemma-3-1b-it",
    "HuggingFaceTB/SmolLM3-3B",
    "mistralai/Ministral-8B-Instruct-2410",
)
HEADS_OF_128 = ("qwen3_8b", "qwen25_7b", "olmo3_7b", *FAMILIES[1:])
HEADS_OF_128 += ("qwen3_0_6b", "qwen3_1_7b", "qwen3_4b")


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    """What is chosen by the platform is chosen for a GPU."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def load(name):
    """A configuration, and its model with a layer of each kind.

    A published model of another family goes through `qwen25_7b`.
    """
    if name in FAMILIES:
        config = configs.load("qwen25_7b")
        config = replace(config, model=replace(config.model, path=name))
    else:
        config = resolve(configs.load(name))
    decoder, _ = shape_of(config.model.path)
    layers = min(decoder.period, 6)
    kept = {
        field: getattr(decoder, field)[:layers]
        for field in ("window_layers", "rope_layers")
    }
    return config, replace(decoder, num_layers=layers, **kept)


def exported(program, arguments, *targets):
    """The module for CUDA, as text."""
    checks = [jax.export.DisabledSafetyCheck.custom_call(t) for t in targets]
    export = jax.export.export(program, platforms=["cuda"], disabled_checks=checks)
    found = export(*arguments)
    assert found.platforms == ("cuda",)
    return found.mlir_module()


def sampler_for(name, backend, mesh=None):
    """The sampler of a configuration, and its weights and state as shapes."""
    config, decoder = load(name)
    chosen = cached_backends.choose(
        backend,
        head_dim=decoder.head_dim,
        page_size=config.engine.page_size,
        dtype=jnp.bfloat16,
        device=H100,
    )
    sampler = Sampler(
        config=decoder,
        sizes=replace(config.engine, attention=backend),
        valid_vocab=decoder.vocab_size,
        mesh=mesh,
        attention=chosen,
    )
    in_16_bits = jax.tree.map(
        lambda x: x.update(dtype=jnp.bfloat16), forward.shapes(decoder)
    )
    params = jax.eval_shape(partial(unstack, config=decoder), in_16_bits)
    return sampler, params, jax.eval_shape(sampler.make_state(jnp.bfloat16))


def needs(backend):
    if backend == "fa3" and importlib.util.find_spec(cached_backends.FA3) is None:
        pytest.skip("flash-attn3-jax is not installed (pip install -e .[fa3])")


@pytest.mark.parametrize("backend", ["blocks", "pallas", "fa3"])
@pytest.mark.parametrize("name", [*NAMES, *FAMILIES])
def test_sampling_lowers_for_cuda(name, backend):
    if backend == "fa3" and name not in HEADS_OF_128:
        with pytest.raises(UserError, match="heads of"):
            sampler_for(name, backend)
        return
    needs(backend)
    sampler, params, state = sampler_for(name, backend)
    programs = sampler.programs()
    if backend != "blocks":
        programs.pop("copy")  # knows nothing of attention
    for kind, (program, arguments) in programs.items():
        kernels = [TARGETS[backend]] if kind == "decode" and backend in TARGETS else []
        text = exported(program, (params, state, arguments), *kernels)
        assert all(kernel in text for kernel in kernels)


@pytest.mark.parametrize("backend", ["pallas", "fa3"])
def test_on_four_devices_each_runs_the_kernel_on_its_own_slots(backend):
    needs(backend)
    sampler, params, state = sampler_for("qwen3_8b", backend, make_mesh(data=4))
    program, arguments = sampler.programs()["decode"]
    text = exported(program, (params, state, arguments), TARGETS[backend])
    # Its share of the 64 slots, not all of them.
    (call,) = {
        x for x in text.splitlines() if f"@{TARGETS[backend]}" in x and "16x" in x
    }
    assert "64x1x32x128" not in call


@pytest.mark.parametrize("name", [*NAMES, *FAMILIES])
def test_the_update_lowers_for_cuda(name):
    config, decoder = load(name)
    stage = config.solver_train
    # One device: how rows and weights are split over several is XLA's work, later.
    updater = Updater(
        decoder,
        stage.loss,
        stage.optimizer,
        replace(stage.update, compute_dtype="bfloat16", capacity=1),
        make_mesh(),
    )
    for program, arguments in updater.jitted().values():
        exported(program, arguments)
