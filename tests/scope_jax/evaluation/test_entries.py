"""Which models a command line names, and what is refused in one line."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import configs
import eval as evaluation_script
from models.errors import UserError
from scope_jax.evaluation import judges, players
from scope_jax.evaluation.entries import entries
from scope_jax.evaluation.journal import agree
from scope_jax.evaluation.players import _only_model, identity
from scope_jax.inference.chat import ChatConfig
from scope_jax.method.compat import Compat
from scope_jax.small_world.assets import MODEL, resolve
from scope_jax.system import settings
from tests.scope_jax.evaluation import benchmark_world as world
from tests.scope_jax.evaluation.hosted import Hosted, serving
from tests.scope_jax.inference.inference_world import CHATML, write_model

CONFIG = resolve(configs.load("tiny"))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of three iterations, two of them finished, in another format."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "look"
    config = replace(
        configs.load("tiny"), iterations=3, tool_format="tool_call", prompts="default"
    )
    settings.save(config, folder / "config.json")
    (folder / "manifest.json").write_text('{"stages": {}}')
    for iteration in (1, 2):
        for role in ("solver", "challenger"):
            (folder / "export" / f"iter_{iteration}" / role).mkdir(parents=True)
    return folder


def names(*given, **options):
    return [entry.name for entry in entries(given, CONFIG, **options)]


def test_a_run_is_its_base_and_every_finished_solver(run):
    found = entries(["runs/look"], CONFIG)
    assert [e.name for e in found] == ["look-base", "look-iter_1", "look-iter_2"]
    assert found[0].path == str(MODEL)
    assert found[2].path == "runs/look/export/iter_2/solver"
    assert {(e.tool_format, e.prompts) for e in found} == {("tool_call", "default")}


def test_one_model_of_a_run(run):
    assert names("runs/look:2") == ["look-iter_2"]
    assert names("runs/look:1/challenger") == ["look-iter_1-challenger"]
    assert names("runs/look:base", "x=runs/look:1/solver") == ["look-base", "x"]
    with pytest.raises(UserError, match="iter_3/solver: not exported yet"):
        names("runs/look:3")
    with pytest.raises(UserError, match="x=runs/look: names 3 models"):
        names("x=runs/look")


def test_a_finished_solver_whose_export_is_lost_is_refused(run):
    stages = {f"iter_{i}/solver": {"status": "done"} for i in (1, 2)}
    (run / "manifest.json").write_text(json.dumps({"stages": stages}))
    (run / "export/iter_1/solver").rmdir()
    for what in ("runs/look", "runs/look:1"):
        with pytest.raises(UserError, match=f"{what}: .*iter_1/solver: is gone"):
            names(what)
    assert names("runs/look:2", "runs/look:base") == ["look-iter_2", "look-base"]


@pytest.mark.parametrize("which", ["base", "3", "3/challenger"])
def test_a_model_of_a_run_that_is_not_there_is_refused(which, tmp_path):
    what = f"{tmp_path / 'none'}:{which}"
    with pytest.raises(UserError, match="none: no run is there: name a run"):
        names(what)


def test_folders_and_the_hub(tmp_path):
    found = entries(["demo", "Qwen/Qwen3-8B", "a.b=Qwen/Qwen3-8B"], CONFIG)
    assert [e.name for e in found] == ["demo", "Qwen3-8B", "a.b"]
    assert found[0].path == str(MODEL) and found[1].path == "Qwen/Qwen3-8B"
    assert found[1].tool_format == "search_r1" and found[1].prompts == "small_world"
    [other] = entries(["demo"], CONFIG, tool_format="tool_call")
    assert other.tool_format == "tool_call"
    with pytest.raises(UserError, match="demo: named twice: put a name in front"):
        names("demo", "demo")
    with pytest.raises(UserError, match="--format xml: unknown"):
        names("demo", tool_format="xml")


def test_a_server_needs_tokenizer_and_format():
    [found] = entries(
        ["http://host:8000/v1#org/big"],
        CONFIG,
        tokenizer="demo",
        tool_format="tool_call",
    )
    assert (found.name, found.url, found.served) == (
        "big",
        "http://host:8000",
        "org/big",
    )
    assert (
        found.tokenizer == str(MODEL) and identity(found) == "http://host:8000#org/big"
    )
    for options in ({}, {"tokenizer": "demo"}, {"tool_format": "tool_call"}):
        with pytest.raises(UserError, match="give --tokenizer FOLDER and --format"):
            names("http://host:8000", **options)


def test_the_same_weights_are_the_same_model_wherever_they_lie(tmp_path):
    for name in ("one", "two"):
        write_model(tmp_path / name, 1)
    write_model(tmp_path / "other", 2)
    found = entries([str(tmp_path / n) for n in ("one", "two", "other")], CONFIG)
    one, two, other = map(identity, found)
    assert one == two != other


def test_a_judge_is_a_model_or_a_chat_server():
    base = judges.named("", CONFIG)
    assert (base.name, base.entry.path, base.chat) == ("demo", str(MODEL), None)
    assert (base.temperature, base.max_tokens) == (0.6, 96)
    assert judges.named("mine=demo", CONFIG).name == "mine"
    chat = judges.named("https://api.openai.com/v1#gpt-5-mini", CONFIG)
    assert (chat.name, chat.temperature, chat.max_tokens) == ("gpt-5-mini", 1.0, 16384)
    assert chat.chat.address == "https://api.openai.com/v1/chat/completions"
    mine = judges.named("mine=http://h:1#org/m", CONFIG, ChatConfig(temperature=0.2))
    assert (mine.name, mine.chat.model, mine.chat.temperature) == ("mine", "org/m", 0.2)
    with pytest.raises(UserError, match="which model"):
        judges.named("http://h:1", CONFIG)


def test_what_a_verdict_depends_on_is_noted():
    spec = judges.named("http://h:1#m", CONFIG)
    noted = spec.facts(CONFIG)
    assert noted["judge"] == "http://h:1/v1/chat/completions" and noted["model"] == "m"
    cool = ChatConfig(temperature=0.6)
    other = judges.named("http://h:1#m", CONFIG, cool).facts(CONFIG)
    assert {k for k in noted if noted[k] != other[k]} == {"temperature"}
    json.dumps(noted)


def test_models_are_held_in_the_type_that_is_asked_for_and_it_is_noted(monkeypatch):
    config = replace(CONFIG, model=replace(CONFIG.model, dtype="bfloat16"))
    [entry] = entries(["demo"], CONFIG)
    asked = []

    def load(path, **options):
        asked.append(options["dtype"])
        raise UserError("enough")

    monkeypatch.setattr(players.hf, "load", load)
    with (
        pytest.raises(UserError, match="enough"),
        players.playing(config, entry, None),
    ):
        pass
    assert asked == ["bfloat16"]
    assert players.facts(entry, config, 0.0)["dtype"] == "bfloat16"
    assert judges.named("", CONFIG).facts(config)["dtype"] == "bfloat16"
    # Of somebody else's server it is not ours to say.
    assert judges.named("http://h:1#m", CONFIG).facts(config)["dtype"] == ""


def test_answers_are_kept_where_a_switch_is_about_source_documents_only():
    [entry] = entries(["demo"], CONFIG)

    def facts(**switches):
        return players.facts(entry, replace(CONFIG, compat=Compat(**switches)), 0.0)

    assert facts(first_line_documents=True) == facts()
    assert facts(sliding_context=True) != facts()


@pytest.fixture
def dated(tmp_path):
    """A model whose template prints the day, as Llama 3.2's and SmolLM3's do."""
    write_model(tmp_path / "model", 1)
    [entry] = entries([str(tmp_path / "model")], CONFIG)
    return replace(entry, template="{{ strftime_now('%d %b %Y') }}\n" + CHATML)


def test_a_template_that_prints_the_day_has_one_without_any_option(dated, monkeypatch):
    first = []

    @contextlib.contextmanager
    def serving_(config, folder, renderer, *_, **__):
        first.append(renderer.render([{"role": "user", "content": "q"}])[:12])
        yield SimpleNamespace(connect=lambda: None)

    monkeypatch.setattr(players, "_engine", lambda *_: None)
    monkeypatch.setattr(judges, "Serving", serving_)
    spec = replace(judges.named("", CONFIG), entry=dated)
    for day in ("", "2025-01-31"):
        config = replace(CONFIG, model=replace(CONFIG.model, date=day))
        with players.playing(config, dated, None) as world_:
            asked = world_.renderer.render([{"role": "user", "content": "q"}])
        with judges.judging(config, spec, Path("none")):
            assert first.pop() == asked[:12]
        assert asked.startswith("31 Jan 2025\n" if day else "26 Jul 2024\n")
        noted = players.facts(dated, config, 0.0), spec.facts(config)
        assert [each["date"] for each in noted] == [day or "2024-07-26"] * 2


def test_answers_of_two_days_are_refused_and_others_have_no_day(dated, tmp_path):
    plain = replace(dated, template=None)
    later = replace(CONFIG, model=replace(CONFIG.model, date="2025-01-31"))
    assert players.facts(plain, CONFIG, 0.0) == players.facts(plain, later, 0.0)
    file, old = tmp_path / "model.json", players.facts(plain, CONFIG, 0.0)
    for config in (CONFIG, later):  # as older versions noted them: both stay valid
        file.write_text(json.dumps(old | {"template": dated.template}))
        agree(file, players.facts(dated, config, 0.0), "answers", ["date"])
    with pytest.raises(UserError, match=r"\(date: '2025-01-31' -> '2024-07-26'\)"):
        agree(file, players.facts(dated, CONFIG, 0.0), "answers", ["date"])


def test_a_server_that_does_not_say_its_model_is_named():
    with (
        serving(Hosted(reply=world.said_by_judge)) as server,
        pytest.raises(UserError, match="name the model as URL#NAME"),
    ):
        _only_model(server.url, "")


def test_a_run_among_the_models_gives_the_configuration(run):
    given = ["--model", "x=runs/look:2", "demo", "--benchmark", "nq=file"]
    config, options = evaluation_script.parse(given)
    assert (config.tool_format, config.iterations) == ("tool_call", 3)
    assert options.model == ("x=runs/look:2", "demo")
    config, options = evaluation_script.parse(
        ["--config", "tiny", *given, "--judge", "demo", "--chat.backoff", "0.5"]
    )
    assert config.tool_format == "search_r1" and options.chat.backoff == 0.5
    changed, _ = evaluation_script.parse([*given, "--judge.grade_tokens", "7"])
    assert changed.judge.grade_tokens == 7 and changed.tool_format == "tool_call"
    with pytest.raises(UserError, match="--config: missing"):
        evaluation_script.parse(["--model", "demo", "--benchmark", "nq=file"])


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--search_from", "demo"], "belong together"),
        (["--samples", "2"], "--samples 2.*raise the temperature"),
        (["--chat.attempts", "0"], "must be at least 1"),
        (["--limit", "-1"], "must be at least 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, why):
    with pytest.raises(UserError, match=why):
        evaluation_script.parse(["--config", "tiny", *options])


BENCHMARK = ["--benchmark", "nq=file"]
FILE = ["--file", "prompts.jsonl"]
ON_WHAT = "on what"
NOT_BOTH = "leave out one of the two"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ([*BENCHMARK, "--run", "runs/x"], "--run runs/x: .*write --model runs/x"),
        ([*BENCHMARK, *FILE], f"--file prompts.jsonl: .*{NOT_BOTH}"),
        ([*BENCHMARK, "--count", "9"], f"--count 9: .*--benchmark: {NOT_BOTH}"),
        ([*BENCHMARK, "--split", "dev"], f"--split dev: .*{NOT_BOTH}"),
        ([*FILE, "--count", "9"], f"--count 9: .*--file: {NOT_BOTH}"),
        ([*FILE, "--judge", "demo"], f"--judge demo: {ON_WHAT}"),
        (["--model", "demo"], f"--model demo: {ON_WHAT}"),
        (["--second_judge", "far"], f"--second_judge far: {ON_WHAT}"),
        (["--baseline", "demo"], f"--baseline demo: {ON_WHAT}"),
        (["--search_from", "a", "--answer_from", "b"], f"--search_from a: {ON_WHAT}"),
        (["--temperature", "1", "--samples", "2"], f"--samples 2: {ON_WHAT}"),
        (["--temperature", "1"], f"--temperature 1: {ON_WHAT}"),
        (["--limit", "5"], f"--limit 5: {ON_WHAT}"),
        (["--resamples", "5"], f"--resamples 5: {ON_WHAT}"),
        (["--out", "here"], f"--out here: {ON_WHAT}"),
        (["--chat.timeout", "5"], f"--chat.timeout 5: {ON_WHAT}"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(options, why):
    with pytest.raises(UserError, match=f"^{why}"):
        evaluation_script.main(["--config", "tiny", *options])


def test_it_is_named_although_another_ones_name_ends_alike():
    options = ["--recipe", "preference", "--preference.run", "other", *BENCHMARK]
    with pytest.raises(UserError, match=r"^--run runs/x: benchmarks compare models"):
        evaluation_script.parse(["--config", "tiny", *options, "--run", "runs/x"])


@pytest.mark.parametrize(
    "options",
    [
        ["--run", "runs/x", "--count", "9", "--split", "dev"],
        ["--run", "runs/x", *FILE],
        [*BENCHMARK, "--model", "demo", "--judge", "demo", "--chat.timeout", "5"],
    ],
)
def test_options_of_one_evaluation_go_together(options):
    evaluation_script.parse(["--config", "tiny", *options])
