"""Plans: the three large configurations fit, and what doesn't fit says what to do."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import configs
from models.errors import UserError
from models.hf.published import shape_of
from retrieval import keywords
from retrieval.config import RetrievalConfig
from retrieval.search import open_passages
from scope_jax.method.teacher import TeacherConfig
from scope_jax.run import keywords_plan, memory, search_plan
from scope_jax.run.plan import plan
from scope_jax.run.sizes import check_sizes
from scope_jax.small_world.assets import model_path
from scope_jax.system.placement import (
    HostsConfig,
    InferenceProcess,
    MeshConfig,
    TrainerProcess,
)

ROOT = Path(__file__).parents[3]


def with_memory(config, gigabytes):
    trainer = dataclasses.replace(config.placement.trainer, memory_gb=gigabytes)
    placement = dataclasses.replace(config.placement, trainer=trainer)
    return dataclasses.replace(config, placement=placement)


@pytest.mark.parametrize(
    ("name", "billions", "tokens"),
    [
        ("qwen3_8b", 8.19, 150_000),
        ("qwen25_7b", 7.62, 450_000),
        ("olmo3_7b", 7.30, 50_000),
    ],
)
def test_large_configurations_fit_on_four_gpus_of_80_gb(name, billions, tokens):
    config = configs.load(name)
    assert config.solver_train.max_response_tokens == 8192
    found = plan(config)
    found.check()
    by_name = {p.name: p for p in found.programs}
    update = by_name["trainer: solver update"]
    # float32 masters over four devices: a byte a parameter, in all.
    assert update.kinds["weights"] / 1e9 == pytest.approx(billions, rel=0.005)
    assert update.kinds["optimizer"] == 2 * update.kinds["weights"]
    assert by_name["trainer: rollouts"].cache_tokens >= tokens
    text = found.text()
    assert "as published" in text and "tokens of cache on each device" in text


@pytest.mark.parametrize(
    ("path", "billions", "token"),
    [
        ("google/gemma-3-1b-it", 1.0, 26 * 2 * 256 * 2),
        ("HuggingFaceTB/SmolLM3-3B", 3.08, 36 * 2 * 4 * 128 * 2),
        ("mistralai/Ministral-8B-Instruct-2410", 8.02, 36 * 2 * 8 * 128 * 2),
    ],
)
def test_a_published_model_of_any_family_has_a_plan(path, billions, token):
    config = configs.load("qwen25_7b")
    config = dataclasses.replace(
        config, model=dataclasses.replace(config.model, path=path)
    )
    found = plan(config)
    by_name = {p.name: p for p in found.programs}
    update = by_name["trainer: solver update"]
    assert update.kinds["weights"] / 1e9 == pytest.approx(billions, rel=0.005)
    cache, engine = by_name["trainer: rollouts"].kinds["cache"], config.engine
    assert cache == engine.pages(4) * engine.page_size * token
    assert f"{path} as published" in found.text()


@pytest.mark.parametrize("name", ["qwen3_8b", "qwen25_7b", "olmo3_7b"])
def test_a_difficulty_rollout_of_the_method_fits_the_inference_process(name):
    config = configs.load(name)
    engine, replicas = config.inference.engine, config.placement.inference.replicas
    assert config.challenger.rollout_context_tokens == engine.max_length == 32_768
    assert engine.pages(replicas) * engine.page_size >= engine.max_length
    [served] = [p for p in plan(config).programs if p.name.startswith("inference")]
    assert served.total <= served.limit


def test_a_difficulty_rollout_longer_than_our_server_takes_is_refused():
    config = configs.load("qwen3_8b")
    engine = dataclasses.replace(config.inference.engine, max_length=24_576)
    inference = dataclasses.replace(config.inference, engine=engine)
    config = dataclasses.replace(config, inference=inference)
    said = r"challenger.rollout_context_tokens=32768: exceeds inference.engine.max_len"
    with pytest.raises(UserError, match=said):
        check_sizes(config)
    other = dataclasses.replace(inference, url="http://elsewhere:1")
    check_sizes(dataclasses.replace(config, inference=other))  # it knows its own


def test_a_damaged_configuration_of_a_model_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json: not valid JSON"):
        shape_of(str(tmp_path))


def test_what_does_not_fit_is_one_line_with_a_remedy():
    small = with_memory(configs.load("qwen3_8b"), 40.0)
    with pytest.raises(UserError, match=r"needs [\d.]+ GB of the 36.0 GB .*lower"):
        plan(small).check()


def test_a_model_that_judges_one_job_is_counted_beside_the_judge():
    tiny = configs.load("tiny")
    inference = dataclasses.replace(tiny.inference, grader_model=str(model_path()))
    usual, more = plan(tiny), plan(dataclasses.replace(tiny, inference=inference))
    two, three = (found.programs[-1] for found in (usual, more))
    assert (two.name, three.name) == ("inference: 2 models", "inference: 3 models")
    assert three.total == pytest.approx(1.5 * two.total)


def test_slots_that_cannot_be_split_are_found_before_anything_runs():
    config = configs.load("qwen3_8b")
    engine = dataclasses.replace(config.inference.engine, slots=5)
    inference = dataclasses.replace(config.inference, engine=engine)
    with pytest.raises(UserError, match=r"engine.slots=5: is split over 2"):
        plan(dataclasses.replace(config, inference=inference))


def test_a_model_of_unknown_shape_is_named():
    config = configs.load("qwen3_8b")
    model = dataclasses.replace(config.model, path="somebody/else")
    with pytest.raises(UserError, match=r"path=somebody/else: .* give a folder"):
        plan(dataclasses.replace(config, model=model))


def test_the_command_prints_the_plan_and_ends_with_2_where_it_does_not_fit(tmp_path):
    command = [sys.executable, str(ROOT / "scripts/train.py"), "--config", "tiny"]
    command += ["--plan", "--run", str(tmp_path / "run")]
    good = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert good.returncode == 0, good.stderr
    assert "trainer: rollouts" in good.stdout and not (tmp_path / "run").exists()
    command += ["--placement.trainer.memory_gb", "0.01"]
    bad = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert bad.returncode == 2
    assert bad.stderr.startswith("error: trainer: ") and bad.stderr.count("\n") == 1


def with_placement(**fields):
    config = configs.load("qwen3_8b")
    placement = dataclasses.replace(config.placement, **fields)
    return dataclasses.replace(config, placement=placement)


@pytest.mark.parametrize("count", [3, 8])
def test_hosts_that_cannot_share_the_mesh_evenly_are_refused(count):
    config = with_placement(hosts=HostsConfig(count=count))
    with pytest.raises(UserError, match=rf"hosts.count={count}: the 4 devices"):
        plan(config)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (MeshConfig, {"fsdp": 0}),
        (InferenceProcess, {"replicas": 0}),
        (TrainerProcess, {"memory_gb": 0.0}),
        (TrainerProcess, {"memory_fraction": 1.5}),
    ],
)
def test_a_placement_on_nothing_is_refused(kind, fields):
    with pytest.raises(
        UserError, match="{}={}: must".format(*next(iter(fields.items())))
    ):
        kind(**fields)


def test_a_run_that_would_be_refused_has_no_plan():
    config = configs.load("qwen3_8b")
    engine = dataclasses.replace(config.engine, max_length=1000)
    with pytest.raises(UserError, match=r"exceeds engine.max_length=1000"):
        plan(dataclasses.replace(config, engine=engine))


def updating(config, **dtypes):
    """With the arithmetic of each stage's update."""
    stages = {
        name: dataclasses.replace(
            getattr(config, name),
            update=dataclasses.replace(
                getattr(config, name).update, compute_dtype=dtype
            ),
        )
        for name, dtype in dtypes.items()
    }
    return dataclasses.replace(config, **stages)


def test_an_update_in_float32_is_planned_in_float32():
    config = configs.load("qwen3_8b")
    both = dict.fromkeys(("challenger_train", "solver_train"), "float32")
    usual, wide = plan(config), plan(updating(config, **both))
    for before, after in zip(usual.programs, wide.programs, strict=True):
        for kind in ("reference", "sampler weights", "cache"):
            if kind in before.kinds:
                wider = before.name.startswith("trainer")
                assert after.kinds[kind] == before.kinds[kind] * (2 if wider else 1)


@pytest.mark.parametrize("name", ["qwen3_8b", "qwen3_1_7b"])  # weights; adapters
def test_stages_that_compute_in_other_numbers_are_refused(name):
    config = configs.load(name)
    said = r"challenger_train\.update\.compute_dtype: computes in float32, and .* auto:"
    with pytest.raises(UserError, match=said):
        check_sizes(updating(config, challenger_train="float32"))
    said = r"computes in auto, and solver_train\.update\.compute_dtype in bfloat16: one"
    with pytest.raises(UserError, match=said):
        check_sizes(updating(config, solver_train="bfloat16"))
    model = dataclasses.replace(config.model, dtype="float32")
    wide = dataclasses.replace(config, model=model)  # what auto then means
    check_sizes(updating(wide, challenger_train="float32"))


def with_retrieval(config, **changes):
    retrieval = dataclasses.replace(config.retrieval, **changes)
    return dataclasses.replace(config, retrieval=retrieval)


def placed(config, process, **changes):
    changed = dataclasses.replace(getattr(config.placement, process), **changes)
    placement = dataclasses.replace(config.placement, **{process: changed})
    return dataclasses.replace(config, placement=placement)


def test_what_a_teacher_is_scored_with_is_planned_beside_the_rollouts():
    tiny = configs.load("tiny")
    loss = dataclasses.replace(tiny.solver_train.loss, distillation=0.1)
    taught = dataclasses.replace(
        tiny,
        solver=dataclasses.replace(tiny.solver, teacher=TeacherConfig(kind="critique")),
        solver_train=dataclasses.replace(tiny.solver_train, loss=loss),
    )
    usual, more = (
        {p.name: p for p in plan(config).programs} for config in (tiny, taught)
    )
    name = "trainer: rollouts"
    scoring = more[name].kinds["scoring"]
    decoder, _ = shape_of(str(model_path()))
    assert scoring == memory.scoring(decoder, tiny.engine, compute_bytes=4) > 1e6
    assert more[name].total == usual[name].total + scoring
    assert more[name].cache_tokens < usual[name].cache_tokens
    usual.pop(name), more.pop(name)
    assert usual == more and "scoring" in plan(taught).text()


def test_search_is_planned_for_the_corpus_of_the_reference():
    config = configs.load("qwen3_8b")
    found = plan(config).search
    assert (found.passages, found.counted, found.dim) == (21_015_324, False, 768)
    assert found.host == pytest.approx(64.6e9, rel=0.001)
    assert found.searches == 2 * 256 * 8
    by_hand = found.searches * 21_015_324 * 768 * 2 / 106e9 / os.cpu_count()
    assert found.seconds == pytest.approx(by_hand)
    half = plan(with_retrieval(config, index="IVF16384,SQfp16")).search
    assert half.host == pytest.approx(found.host / 2, rel=0.01)
    assert half.seconds is None
    apart = placed(config, "trainer", devices="4,5,6,7")
    four = placed(apart, "inference", devices="0,1,2,3", replicas=4)
    split = plan(with_retrieval(four, gpus=4)).search
    scratch = 1.5 * 2**30
    assert split.gpu == pytest.approx(21_015_324 * 768 * 2 / 4 + scratch)
    # FAISS copies a share as float32, makes float16 of it, and appends that.
    assert split.loading == pytest.approx(21_015_324 * 768 * 8 / 4 + scratch)
    assert "9.7 GB on each of 4 GPUs" in str(split)
    assert "at the start 33.9 GB and 64.6 GB of host memory" in str(split)
    assert "21,015,324 passages (assumed) of 768 numbers, Flat: 64.6 GB" in str(found)
    assert plan(with_retrieval(config)).text().count("search: ") == 2
    roomy = placed(four, "inference", memory_fraction=0.5)
    plan(with_retrieval(roomy, gpus=4)).search.check()
    with pytest.raises(UserError, match=r"gpus=4: each takes 33.9 GB while .* 12.0:"):
        split.check()
    with pytest.raises(UserError, match="could not parse index string Foo"):
        plan(with_retrieval(config, index="Foo"))


def test_search_has_no_more_gpus_than_its_process_and_no_room_that_others_take():
    shared = with_retrieval(configs.load("qwen3_8b"), gpus=1)
    apart = plan(shared).search
    devices = shared.placement.inference.devices
    beside = placed(shared, "trainer", devices=devices, memory_fraction=0.1)
    found = plan(beside).search
    assert found.room == pytest.approx(apart.room - 8e9)
    with pytest.raises(UserError, match=r"gpus=99: placement\.inference\.devices"):
        plan(with_retrieval(shared, gpus=99))


def test_passages_that_are_there_are_counted(tmp_path):
    file = tmp_path / "corpus.jsonl"
    file.write_text(json.dumps({"contents": "a title\n" + "text " * 20}) + "\n" * 1)
    file.write_text(file.read_text() * 3000)
    config = with_retrieval(configs.load("qwen3_8b"), passages=str(file))
    assert (plan(config).search.passages, plan(config).search.counted) == (3000, True)
    served = dataclasses.replace(config.inference, retrieval_url="http://a:1")
    assert plan(dataclasses.replace(config, inference=served)).search is None


def test_one_setting_is_the_arithmetic_of_the_whole_run():
    config = configs.load("qwen3_8b")
    model = dataclasses.replace(config.model, dtype="float32")
    usual, wide = plan(config), plan(dataclasses.replace(config, model=model))
    for before, after in zip(usual.programs, wide.programs, strict=True):
        for kind in ("reference", "sampler weights", "cache"):
            if kind in before.kinds:
                assert after.kinds[kind] == before.kinds[kind] * 2
        assert after.kinds.get("weights") == before.kinds.get("weights")  # masters


@pytest.mark.parametrize(
    ("section", "field", "change", "said"),
    [
        ("challenger", "rollout_sampling", {"top_p": 3}, "top_p=3: must be above 0"),
        ("tasks", "sampling", {"temperature": -1}, "temperature=-1: must be at least"),
        ("challenger_train", "sampling", {"min_p": 2}, "min_p=2: must be between 0"),
        ("solver_train", "sampling", {"top_k": -1}, "top_k=-1: must be at least 0"),
    ],
)
def test_sampling_that_no_engine_does_is_refused(section, field, change, said):
    config = configs.load("ci")
    part = getattr(config, section)
    sampling = dataclasses.replace(getattr(part, field), **change)
    # A training stage refuses it itself; for the others, the whole is looked at.
    with pytest.raises(UserError, match=f"{field}.{said}"):
        part = dataclasses.replace(part, **{field: sampling})
        plan(dataclasses.replace(config, **{section: part}))


def test_passages_are_counted_in_their_store_once_that_is_there(tmp_path, monkeypatch):
    file = tmp_path / "corpus.csv"
    file.write_text("text\na b c\nd e f\na b c\n")
    told = RetrievalConfig(passages=str(file))
    assert search_plan.count_of(told) == (3, True)  # with the duplicate
    cut = dataclasses.replace(told, cut_tokens=2, ranking="bm25")
    config = dataclasses.replace(configs.load("tiny"), retrieval=cut)
    found = keywords_plan.plan(config)
    assert (found.passages, found.words) == (6, 1.5)
    monkeypatch.setattr(search_plan, "SMALL", 10)
    assert search_plan.count_of(told) == (search_plan.WIKIPEDIA, False)
    assert keywords_plan.plan(config).words == keywords_plan.WORDS
    open_passages(told)
    assert search_plan.count_of(told) == (2, True)
    config = dataclasses.replace(configs.load("tiny"), retrieval=told)
    assert search_plan.plan(config).passages == 2
    told = dataclasses.replace(told, ranking="bm25")
    config = dataclasses.replace(config, retrieval=told)
    assert search_plan.plan(config) is None
    assert keywords_plan.plan(config).passages == 2
    assert keywords_plan.plan(config).words == 3.0


def test_bm25_is_planned_from_the_words_that_are_there(tmp_path):
    file = tmp_path / "corpus.jsonl"
    row = json.dumps({"title": "Two Words", "text": "of a text, and of a TEXT"})
    file.write_text(f"{row}\nno passage\n" + f"{row}\n" * 4998)
    config = with_retrieval(
        configs.load("qwen3_8b"), passages=str(file), ranking="fused"
    )
    found = plan(config).keywords
    assert (found.passages, found.counted, found.words) == (5000, True, 9.0)
    # Nine words, six of them different.
    pairs, known = 5000 * 6, round(6 * (5000 / 4999) ** 0.6)
    by_hand = keywords.bytes_to_build(5000, 5000 * 9, pairs, known)
    assert found.building == by_hand
    assert (found.mapped, found.held) == keywords.bytes_kept(5000, pairs, known)
    text = plan(config).text()
    assert "5,000 passages of 9 words, BM25: 0.0 GB of host memory" in text
    assert text.count("search: ") == 3  # beside the vectors


def test_bm25_of_an_assumed_corpus_is_planned_and_of_other_searches_is_not():
    config = with_retrieval(configs.load("qwen3_8b"), ranking="bm25")
    found = plan(config).keywords
    assert (found.passages, found.counted) == (search_plan.WIKIPEDIA, False)
    by_hand = 21_015_324 * (72 + 9 * 102 + 36 * 72) + 210 * 1e7
    assert found.building == pytest.approx(by_hand, rel=1e-3)
    assert "(assumed) of 102 words" in plan(config).text()
    assert plan(with_retrieval(config, ranking="vectors")).keywords is None
    served = dataclasses.replace(config.inference, retrieval_url="http://a:1")
    for other in ({"inference": served}, {"tools": "mine.py:search"}):
        elsewhere = plan(dataclasses.replace(config, **other))
        assert elsewhere.keywords is None and elsewhere.search is None
