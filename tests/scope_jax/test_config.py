"""The settings: constants of the method, JSON there and back, differences."""

import ast
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

import configs
from models.errors import UserError
from rl.records import SamplingParams
from scope_jax.config import (
    CheckpointConfig,
    Config,
    ModelConfig,
    StageConfig,
)
from scope_jax.method.compat import Compat
from scope_jax.run.sizes import check_sizes
from scope_jax.system import settings
from scope_jax.system.placement import gpus
from scope_jax.system.settings import leaves

FAMILIES = ("qwen25_7b", "qwen3_8b", "olmo3_7b")


@pytest.mark.parametrize("name", configs.names())
def test_each_configuration_carries_its_own_name_and_explains_itself(name):
    config = configs.load(name)
    assert config.name == name
    described = configs.describe(name)
    assert f"--config {name}" in described
    assert "Hardware:" in described


@pytest.mark.parametrize("name", configs.names())
def test_json_there_and_back_is_the_same_settings(name, tmp_path):
    config = configs.load(name)
    settings.save(config, tmp_path / "config.json")
    assert settings.load(Config, tmp_path / "config.json") == config
    assert list(tmp_path.iterdir()) == [tmp_path / "config.json"]


@pytest.mark.parametrize("name", configs.names())
def test_settings_are_hashable_frozen_and_documented(name):
    config = configs.load(name)
    hash(config)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1


@pytest.mark.parametrize("name", FAMILIES)
def test_families_have_the_constants_of_the_method(name):
    c = configs.load(name)
    assert (c.seed, c.iterations) == (42, 3)
    assert (c.documents.rows, c.documents.max_tokens) == (2000, 256)
    for stage, prompts, limit in (
        (c.challenger_train, 64, 1024),
        (c.solver_train, 256, 2048),
    ):
        assert (stage.steps, stage.prompts_per_step, stage.group_size) == (
            20,
            prompts,
            8,
        )
        assert stage.max_prompt_tokens == limit
        assert (stage.max_response_tokens, stage.max_context_tokens) == (8192, 16384)
        assert stage.sampling == SamplingParams(max_new_tokens=8192)
        assert stage.loss.clip_low == 0.2
        assert stage.loss.dual_clip == 3.0
        assert (stage.loss.kl_coefficient, stage.loss.kl_kind) == (0.001, "k3")
        o = stage.optimizer
        assert (o.learning_rate, o.beta1, o.beta2) == (1e-6, 0.9, 0.999)
        assert (o.epsilon, o.weight_decay, o.clip_norm) == (1e-8, 0.01, 1.0)
        assert o.warmup_updates == 0
    assert c.challenger_train.loss.clip_high == 0.2
    assert c.solver_train.loss.clip_high == 0.28
    t = c.tasks
    assert (t.target, t.prompts_per_batch, t.max_batches) == (5120, 2000, 20)
    assert (t.samples, t.solver_rollouts, t.sub_batch) == (4, 4, 500)
    assert (t.low, t.high, t.max_per_document, t.max_turns) == (0.2, 0.8, 1, 10)
    assert (c.checkpoint.every, c.checkpoint.permanent_every) == (2, 10)
    assert (c.solver.length.soft, c.solver.length.hard) == (1024, 2048)
    assert c.solver.length.floor == 0.05
    assert c.judge.gates == ("entity", "source_relevance")
    assert c.judge.required_gates == 2


def test_families_differ_where_the_method_says_so():
    qwen25, qwen3, olmo3 = (configs.load(name) for name in FAMILIES)
    formats = [c.tool_format for c in (qwen25, qwen3, olmo3)]
    assert formats == ["search_r1", "tool_call", "function_calls_xml"]
    templates = [c.model.template for c in (qwen25, qwen3, olmo3)]
    assert templates == [None, "qwen3_strip_thinking", "olmo3_consistent_eos"]
    assert [c.judge.gate_tokens for c in (qwen25, qwen3, olmo3)] == [256, 1024, 256]
    assert [c.judge.thinking for c in (qwen25, qwen3, olmo3)] == [False, True, False]
    # Every turn is a row: 64 x 8 and 256 x 8 rows an optimizer update.
    rows = [qwen3.challenger_train.update.mini_batch_rows]
    rows += [qwen3.solver_train.update.mini_batch_rows]
    assert rows == [512, 2048]
    assert qwen3.solver_train.loss.aggregation == "row_mean"
    assert qwen25.solver_train.loss.averaging == "token_mean"


@pytest.mark.parametrize("name", ["qwen3_8b", "tiny"])
def test_the_paper_s_rewards_are_a_variant_of_any_configuration(name):
    paper, usual = configs.load(f"{name}_paper"), configs.load(name)
    length = usual.solver.length
    assert settings.differences(usual, paper) == [
        f'name: "{name}" -> "{name}_paper"',
        "challenger.format_weight: 0.5 -> 1.0",
        "challenger.difficulty_weight: 1.0 -> 0.5",
        "solver.format_weight: 0.5 -> 1.0",
        f"solver.length.soft: {length.soft} -> 512",
        f"solver.length.hard: {length.hard} -> 4096",
        "solver.length.floor: 0.05 -> 0.1",
    ]
    described = configs.describe(f"{name}_paper")
    assert "The reward weights" in described and "Hardware:" in described


def test_the_released_code_s_behaviour_is_a_variant_of_any_configuration():
    released = configs.load("tiny_released")
    changed = settings.differences(configs.load("tiny"), released, ignore=("name",))
    assert changed == [
        f"compat.{field.name}: false -> true" for field in dataclasses.fields(Compat)
    ]


def test_an_unknown_variant_is_one_line():
    with pytest.raises(UserError, match="did you mean qwen3_8b_paper"):
        configs.load("qwen3_8b_papr")


def test_small_configurations_play_two_iterations_of_the_small_world():
    for name in ("tiny", "ci"):
        config = configs.load(name)
        assert (config.model.path, config.iterations) == ("demo", 2)


def test_gpu_placements_never_overlap_unless_shared():
    for trainer, inference in ((4, 2), (4, 1), (1, 1)):
        placed = gpus(trainer, inference)
        own = placed.trainer.devices.split(",")
        theirs = placed.inference.devices.split(",")
        assert (len(own), len(theirs)) == (trainer, inference)
        assert not set(own) & set(theirs)
        assert placed.trainer.mesh.fsdp == trainer
        assert placed.inference.replicas == inference
    shared = gpus(1, 0)
    assert shared.trainer.devices == shared.inference.devices == "0"
    fractions = shared.trainer.memory_fraction + shared.inference.memory_fraction
    assert fractions < 1


def test_placement_becomes_the_environment_of_a_process():
    variables = gpus(4, 2).trainer.environment()
    assert variables["CUDA_VISIBLE_DEVICES"] == "2,3,4,5"
    assert float(variables["XLA_PYTHON_CLIENT_MEM_FRACTION"]) == 0.9
    assert (
        Config(name="x", model=ModelConfig(path="p")).placement.trainer.environment()
        == {}
    )


def test_differences_name_fields_and_values():
    old = configs.load("tiny")
    new = dataclasses.replace(
        old,
        seed=7,
        placement=gpus(1, 0),
        tasks=dataclasses.replace(old.tasks, low=0.5),
    )
    lines = settings.differences(old, new, ignore=("placement",))
    assert lines == [f"seed: {old.seed} -> 7", f"tasks.low: {old.tasks.low} -> 0.5"]
    assert settings.differences(old, old) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sed": 3}, r"config\.sed: no such field: did you mean seed\?"),
        ({"seed": "3"}, r"config\.seed: '3' is not of type int"),
        ({"seed": True}, r"config\.seed: True is not of type int"),
        ({"tool_format": "xml"}, r"config\.tool_format: 'xml' is not"),
        ({"tasks": {"lo": 1}}, r"config\.tasks\.lo: no such field: did you mean low\?"),
        ({"tasks": 3}, r"config\.tasks: 3 is not a section"),
        ({"name": "a\ud800"}, r"config\.name: 'a\?': half a surrogate pair"),
    ],
)
def test_a_damaged_config_file_is_one_clear_line(change, message):
    data = json.loads(settings.to_json(configs.load("tiny"))) | change
    with pytest.raises(UserError, match=message) as caught:
        settings.from_json(Config, json.dumps(data), source="config")
    assert "\n" not in str(caught.value)


NONE_OF_IT = {
    *(
        "documents.heldout",
        "evaluation.count",
        "evaluation.every",
        "tracking.prometheus_port",
    ),
    *("seed", "solver.max_searches", "solver.max_searches_eval", "solver.length.soft"),
    *("solver.resampling.count", "lora.rank"),
    *("solver.forced_rounds", "judge.required_gates", "judge.distractors"),
    *("retrieval.build_limit", "retrieval.gpus"),
    *("retrieval.cut_tokens", "retrieval.cut_overlap"),
    *("inference.max_restarts", "engine.cache_tokens", "inference.engine.cache_tokens"),
    *("checkpoint.every", "checkpoint.permanent_every", "inference.port"),
    "preference.max_word_gap",
    *("challenger.rollout_sampling.top_k", "tasks.sampling.top_k"),
    *(
        f"{role}_train.{field}"
        for role in ("challenger", "solver")
        for field in ("steps", "sampling.top_k", "update.mini_batch_rows")
        + ("optimizer.warmup_updates", "overlong.buffer")
    ),
}
"""Whole numbers for which 0 means none, or what their documentation says."""


def with_value(name, value):
    """The configuration ``tiny`` with one field of another value, and checked."""
    data = json.loads(settings.to_json(configs.load("tiny")))
    *path, last = name.split(".")
    section = data
    for part in path:
        section = section[part]
    section[last] = value
    config = settings.from_json(Config, json.dumps(data))
    check_sizes(config)


@pytest.mark.parametrize("value", [0, -1])
@pytest.mark.parametrize(
    "name", [name for name, hint, _ in leaves(configs.load("tiny")) if hint is int]
)
def test_a_whole_number_means_something_or_is_refused_at_once(name, value):
    if value == 0 and name in NONE_OF_IT:
        with_value(name, value)
        return
    last = name.rsplit(".", 1)[-1]
    with pytest.raises(UserError, match=rf"\b{last}={value}: must be ") as caught:
        with_value(name, value)
    assert "\n" not in str(caught.value)


def test_checkpoints_may_be_temporary_permanent_both_or_only_the_last():
    def due(every, permanent_every):
        config = CheckpointConfig(every=every, permanent_every=permanent_every)
        return [step for step in range(1, 13) if config.is_due(step)]

    assert due(4, 6) == [4, 6, 8, 12]
    assert due(4, 0) == [4, 8, 12]
    assert due(0, 6) == [6, 12]
    assert due(0, 0) == []


def test_a_file_that_is_no_text_or_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "config.json").write_bytes(b'{"name": "\xff"}')
    with pytest.raises(UserError, match=r"config\.json: not UTF-8 text .*: restore"):
        settings.load(Config, tmp_path / "config.json")
    with pytest.raises(UserError, match=r"config\.json/more: no such file: name the"):
        settings.load(Config, tmp_path / "config.json" / "more")
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\): name"):
        settings.load(Config, tmp_path)


def test_a_file_that_is_no_json_is_refused():
    with pytest.raises(UserError, match="not JSON"):
        settings.from_json(Config, '{"name": ', source="config.json")


def test_training_at_another_temperature_than_sampling_is_refused():
    with pytest.raises(UserError, match=r"make them equal"):
        StageConfig(sampling=SamplingParams(temperature=0.7))


def test_unknown_configuration_names_the_closest():
    with pytest.raises(
        UserError, match=r"tinny: .* did you mean tiny\? known: ci, llama"
    ):
        configs.load("tinny")


def test_reading_settings_starts_no_jax_backend():
    # The trainer sets CUDA_VISIBLE_DEVICES from its configuration.
    program = (
        "import configs; configs.load('tiny'); from jax._src import xla_bridge; "
        "assert not xla_bridge.backends_are_initialized()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_no_setting_is_dead():
    root = Path(configs.__file__).parent.parent
    packages = ("models", "retrieval", "rl", "scope_jax", "scripts")
    files = [path for top in packages for path in (root / top).rglob("*.py")]
    read = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                read.add(node.attr)
    fields = {name.rsplit(".", 1)[-1] for name, _, _ in leaves(configs.load("tiny"))}
    assert sorted(fields - read) == []
