"""Other models may do one of the judge's jobs, each with its own chat template."""

import asyncio
from dataclasses import replace

import configs
from models.chat import ChatRenderer
from rl.records import Completion
from scope_jax.method.types import Rubric
from scope_jax.selfplay.judging import Judging
from scope_jax.selfplay.serving import Serving
from scope_jax.system.hosts import ONE_HOST
from tests.scope_jax.inference.inference_world import (
    CHATML,
    byte_tokenizer,
    write_model,
)
from tests.scope_jax.selfplay.scripted import ScriptedPlayers, rubrics, settings


class Client:
    """Says under which name it was asked, and keeps the requests."""

    def __init__(self):
        self.asked = []

    async def complete(self, name, request):
        self.asked.append((name, request))
        return Completion(ids=(), logprobs=(), text=name, finish_reason="stop")


def serving(tmp_path, **inference):
    config = configs.load("ci")
    config = replace(
        config,
        model=replace(config.model, path=str(tmp_path / "model")),
        inference=replace(config.inference, **inference),
    )
    renderer = ChatRenderer.from_tokenizer(byte_tokenizer())
    found = Serving(config, tmp_path / "run", renderer, ONE_HOST)
    found._client = Client()
    return found


def ask(judge):
    messages = [{"role": "user", "content": "hi"}]
    return asyncio.run(judge(messages, temperature=0.0, max_tokens=4, seed64=1))


def test_by_default_the_judge_alone_is_served_and_does_all_jobs(tmp_path):
    found = serving(tmp_path)
    assert list(found.supervisor.settings.models) == ["judge", "solver"]
    assert found.judge_of("rubric_writer") is found.judge_of("grader") is None
    assert ask(found.judge) == "judge"


def test_who_writes_rubrics_and_who_grades_is_served_beside_the_judge(tmp_path):
    other = str(tmp_path / "other")
    write_model(tmp_path / "other", 1)
    template = tmp_path / "other" / "chat_template.jinja"
    template.write_text(CHATML.replace("assistant", "judge"))
    for setting, name in (
        ("rubric_model", "rubric_writer"),
        ("grader_model", "grader"),
    ):
        found = serving(tmp_path, **{setting: other})
        models = found.supervisor.settings.models
        assert {key: source.path for key, source in models.items()} == {
            "judge": str(tmp_path / "model"),
            "solver": str(tmp_path / "model"),
            name: other,
        }
        assert ask(found.judge_of(name)) == name
        assert ask(found.judge) == "judge"
        shown = [byte_tokenizer().decode(r.ids) for _, r in found._client.asked]
        assert ["judge" in text for text in shown] == [True, False]


def test_an_external_judge_leaves_the_others_here(tmp_path):
    write_model(tmp_path / "other", 1)
    found = serving(
        tmp_path, judge_url="http://far", grader_model=str(tmp_path / "other")
    )
    assert list(found.supervisor.settings.models) == ["solver", "grader"]


def test_each_job_is_asked_of_who_does_it():
    said = []

    def other(name, text):
        async def answer(messages, **_):
            said.append(name)
            return text

        return answer

    players = ScriptedPlayers(settings(), judge=lambda *_: "<score>1</score>")
    world = replace(
        players.world,
        rubric_writer=other("rubrics", rubrics(4)),
        grader=other("grades", "<score>0.5</score>"),
    )
    judging = Judging(world, "tasks")

    async def all_jobs():
        parse, _ = await judging.rubrics("t", "writing", "d", (1,))
        grades = await judging.grade("t", "a", [Rubric("x")], (1,))
        gates, _ = await judging.gates("t", "writing", "d", (1,))
        return parse, grades, gates

    parse, grades, gates = asyncio.run(all_jobs())
    assert len(parse.rubrics) == 4 and grades[0].score == 0.5
    assert set(gates.values()) == {1}
    assert said == ["rubrics", "grades"]
    assert {stem for stem, _, _ in players.asked} == {
        "gate_entity",
        "gate_source_relevance",
    }
