"""Task creation (spec 11), with a scripted Challenger, judge and Solver.

Everybody's answer is a function of what was asked, so that only order and timing can
differ between two runs; and those must not show.
"""

import asyncio
import contextlib
import hashlib
import json
import random
import re
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest

from retrieval.passages import Passages
from scope_jax import tasks as stage
from scope_jax.compat import OFF, Compat
from scope_jax.run_folder import RunFolder
from scope_jax.task_file import read_tasks
from scope_jax.task_writing import batch_rows, read_written, task_seed
from scope_jax.types import TOOL_FORMATS
from tests.scope_jax.scripted import SCORE, ScriptedSession, rubrics, settings
from tests.scope_jax.test_rewards import call, thought


def draw(text, of):
    """A number below ``of`` that depends on ``text`` only."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % of


def task_of(text):
    return re.findall(r"Write about \w+, take \d+", text)[-1]


def judge(stem, text, retry):
    """One gate in six fails, one rubric block in six, grades vary with the task."""
    if stem.startswith("gate"):
        return SCORE[int(draw(stem + task_of(text), 6) > 0)]
    if stem == "rubric":
        return rubrics(2 if draw("r" + task_of(text), 6) == 0 else 5)
    return SCORE[int(draw(text, 10) < draw("g" + task_of(text), 13))]


def solver(seed):
    return f"<answer>{seed}</answer>"


class Killed(Exception):
    """Stands for the end of the process."""


class Bar:
    def inside(self, what, done, total):
        assert done <= total

    def advance(self, metrics, n):
        pass


class Tracker:
    """Keeps the records, like the real one."""

    def __init__(self):
        self.records = []

    def log(self, metrics, *, iteration, stage, step):
        self.records.append({"step": step} | metrics)

    def rewind(self, iteration, stage, step):
        self.records = [r for r in self.records if r["step"] <= step]

    @contextlib.contextmanager
    def stage(self, iteration, stage, *, total, done):
        yield Bar()


class TaskSession(ScriptedSession):
    """A session that can create tasks; ``jitter`` seeds who answers when."""

    def __init__(self, folder, config, *, jitter=0, judge=judge, solver=solver):
        rng = random.Random(jitter)

        async def delay():
            for _ in range(rng.randrange(6)):
                await asyncio.sleep(0)

        super().__init__(config, judge=judge, solver=solver, delay=delay)
        passages = folder.parent / "passages.jsonl"
        passages.parent.mkdir(exist_ok=True)
        if not passages.exists():
            lines = [
                json.dumps({"id": str(i), "contents": f"Town{i}\nIt lies by {i}."})
                for i in range(40)
            ]
            passages.write_text("\n".join(lines) + "\n")
        self.passages = Passages(passages)
        self.folder = RunFolder(folder, config)
        self.tracker = Tracker()
        self.compilations = SimpleNamespace(count=0)
        self.written = []

    def serve_solver(self, iteration):
        pass

    def run(self, work):
        return asyncio.run(asyncio.wait_for(work, 300))

    async def policy(self, request):
        """Searches as often as it was asked to, then writes; one in eight does not."""
        await self._delay()
        text = self.renderer.decode(request.ids)
        self.written.append(request.seed64)
        n = int(re.search(r"exactly \*\*(\d+)\*\* search turn", text)[1])
        turns = text.count("<|im_start|>assistant\n") - 1
        town = re.search(r"\(Title: (\w+)\)", text)[1]
        if turns < n:
            said = call(self.config.tool_format, town)
        elif request.seed64 % 8 == 0:
            said = "bye"
        else:
            said = f"<task>Write about {town}, take {request.seed64 % 97}</task>"
        return self.completion(thought(said))


@pytest.fixture(autouse=True)
def no_weights(monkeypatch):
    monkeypatch.setattr(stage, "_use_challenger", lambda session, iteration: None)


def small(tool_format="search_r1", *, compat=OFF, **changes):
    config = settings(tool_format, compat=compat)
    tasks = replace(
        config.tasks,
        **{"target": 12, "prompts_per_batch": 8, "sub_batch": 6, "samples": 2}
        | {"solver_rollouts": 3, "max_batches": 6}
        | changes,
    )
    return replace(config, tasks=tasks)


def create(folder, config, **options):
    """What task creation leaves behind: tasks, records of candidates, metrics."""
    session = TaskSession(folder / "run", config, **options)
    try:
        stage.create_tasks(session, 1)
        return result(session), session
    finally:
        session.folder.close()


def result(session):
    paths = sorted((session.folder.path / "rollouts/iter_1/tasks").iterdir())
    kept = [
        {k: v for k, v in record.items() if not k.startswith(("time/", "perf/"))}
        for record in session.tracker.records
    ]
    return (
        read_tasks(session.folder.tasks(1)),
        [path.read_text() for path in paths],
        kept,
    )


def outcomes(session):
    lines = "".join(result(session)[1]).splitlines()
    return Counter(json.loads(line)["outcome"] for line in lines)


@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
def test_timing_changes_nothing(tmp_path, tool_format):
    """Who answers first, and how many are under way, shows nowhere."""
    config = small(tool_format)
    first, session = create(tmp_path / "0", config)
    assert len(first[0]) == 12 and len(first[2]) > 1
    assert set(outcomes(session)) >= {"kept", "bad_format", "gates_failed"}
    for jitter, sub_batch in ((1, 6), (2, 1), (3, 500)):
        other = replace(config, tasks=replace(config.tasks, sub_batch=sub_batch))
        again, _ = create(tmp_path / str(jitter), other, jitter=jitter)
        assert again == first


def test_the_next_batch_is_written_while_one_is_sifted(tmp_path):
    """The judge answers for batch 1 only once batch 2 is written, or else never."""
    config = small(target=6, max_batches=2)
    session = TaskSession(tmp_path / "run", config)
    first = session.folder.task_batch(1, 1)
    second = session.folder.task_drafts(1, 2)
    seen = []

    async def wait_for_batch_2():
        while not second.exists() and not first.exists():
            await asyncio.sleep(0.001)
        seen.append(second.exists())

    ask = session.ask_judge

    async def slow(messages, **options):
        await wait_for_batch_2()
        return await ask(messages, **options)

    session.ask_judge = slow
    stage.create_tasks(session, 1)
    assert any(seen)
    assert len(read_tasks(session.folder.tasks(1))) == 6
    session.folder.close()


def test_a_batch_written_for_nothing_is_called_off_and_leaves_no_file(tmp_path):
    (made, _, records), session = create(tmp_path, small(target=2))
    assert (len(made), len(records)) == (2, 1)
    assert {p.name for p in (session.folder.path / "tasks/iter_1").iterdir()} == {
        "batch_0001.parquet"
    }
    whole, _ = create(tmp_path / "whole", small(target=2, max_batches=1))
    assert whole[0] == made


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_killed_in_any_batch_it_goes_on_and_writes_nothing_twice(tmp_path, batch):
    config = small()
    whole, through = create(tmp_path / "whole", config)

    def deadly(stem, text, retry):
        if (session.folder.task_batch(1, batch - 1).exists() or batch == 1) and (
            stem == "grader"
        ):
            raise Killed
        return judge(stem, text, retry)

    session = TaskSession(tmp_path / "run", config, judge=deadly)
    with pytest.raises(Killed):
        stage.create_tasks(session, 1)
    session.folder.close()
    drafts = session.folder.task_drafts(1, batch)
    assert drafts.is_file()
    before = read_written(drafts)

    again = TaskSession(tmp_path / "run", config, jitter=9)
    again.tracker.records = session.tracker.records
    stage.create_tasks(again, 1)
    again.folder.close()
    assert result(again) == whole
    assert not drafts.exists()
    played = {seed for seed in session.written if seed not in again.written}
    assert len(played) >= before.count  # what was written was not written again
    assert set(session.written + again.written) >= set(through.written)


def test_an_interruption_leaves_nothing_running(tmp_path):
    """Ctrl-C cancels the stage; what it had under way ends with it."""
    session, seen = TaskSession(tmp_path / "run", small()), []

    def interrupted(work):
        async def main():
            session.stage = asyncio.current_task()
            try:
                await work
            finally:
                seen.append(asyncio.all_tasks() - {asyncio.current_task()})

        return asyncio.run(main())

    def cancelling(stem, text, retry):
        if stem == "grader":
            session.stage.cancel()
        return judge(stem, text, retry)

    session.run, session._judge = interrupted, cancelling
    with pytest.raises(asyncio.CancelledError):
        stage.create_tasks(session, 1)
    session.folder.close()
    assert seen == [set()]


def test_a_short_result_is_reported(tmp_path, caplog):
    (made, _, _), session = create(tmp_path, small(target=500, max_batches=2))
    assert 0 < len(made) < 500
    wanted = f"iteration 1: {len(made)} of 500 tasks after 2 batches of 8 prompts"
    assert wanted in caplog.text
    manifest = json.loads((session.folder.path / "manifest.json").read_text())
    facts = manifest["stages"]["iter_1/tasks"]
    assert (facts["tasks"], facts["wanted"], facts["batches"]) == (len(made), 500, 2)


def test_tasks_stand_in_row_order_at_most_one_a_prompt_and_within_the_window(tmp_path):
    (made, _, records), session = create(tmp_path, small(samples=4))
    places = [tuple(map(int, task.uid.split("/")[2:])) for task in made]
    assert places == sorted(places)
    assert len({place[:2] for place in places}) == len(made)
    assert all(0.2 <= task.difficulty <= 0.8 for task in made)
    assert outcomes(session)["another_of_its_prompt"] > 0
    assert records[0]["tasks/written"] == 32


@pytest.mark.parametrize(
    ("met", "outcome"),
    [(0, "too_hard"), (1, "kept"), (4, "kept"), (5, "too_easy")],
)
def test_both_ends_of_the_window_are_kept(tmp_path, met, outcome):
    def fixed(stem, text, retry):
        if stem.startswith("gate"):
            return SCORE[1]
        if stem == "rubric":
            return rubrics(5)
        return SCORE[int(int(text.rsplit("Names fact ", 1)[1][0]) <= met)]

    _, session = create(tmp_path, small(max_batches=1), judge=fixed)
    assert set(outcomes(session)) - {"bad_format", "another_of_its_prompt"} == {outcome}


def test_a_task_that_no_rollout_can_be_graded_on_is_dropped(tmp_path):
    _, session = create(tmp_path, small(max_batches=1), solver=lambda seed: "no")
    assert set(outcomes(session)) >= {"too_hard"}
    assert session.count("grader") == 0


@pytest.mark.quirk(28)
def test_tasks_over_the_solver_s_limit_are_dropped_unseen(tmp_path):
    config = small(max_batches=1)
    config = replace(
        config, solver_train=replace(config.solver_train, max_prompt_tokens=100)
    )
    _, session = create(tmp_path, config)
    assert set(outcomes(session)) == {"too_long", "bad_format"}
    assert session.asked == []


def test_gates_come_first_then_rubrics_then_rollouts(tmp_path):
    def failing(stem, text, retry):
        return SCORE[0]

    _, session = create(tmp_path, small(max_batches=1), judge=failing)
    assert session.count("rubric") == 0 and session.solver_requests == []

    def unruly(stem, text, retry):
        return SCORE[1] if stem.startswith("gate") else "none"

    _, session = create(tmp_path / "2", small(max_batches=1), judge=unruly)
    assert session.count("rubric") > 0 and session.solver_requests == []


def test_how_judge_and_solver_are_asked_in_stage_2(tmp_path):
    _, session = create(tmp_path, small(max_batches=1))
    assert session.temperatures == {
        "rubric": {(0.0, 16384)},
        "gate_entity": {(0.0, 256)},
        "gate_source_relevance": {(0.0, 256)},
        "grader": {(0.0, 16384)},
    }
    [sampling] = {request.sampling for request in session.solver_requests}
    assert (sampling.temperature, sampling.top_p) == (0.7, 0.9)
    assert sampling.max_new_tokens == 2048


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.quirk(3)
def test_q3_the_reference_hides_the_task_from_rubric_writer_and_grader(
    tmp_path, released
):
    def fair(stem, text, retry):
        if stem.startswith("gate"):
            return SCORE[1]
        return rubrics(5) if stem == "rubric" else SCORE[draw(text, 2)]

    compat = Compat(empty_task_prompt=released)
    _, session = create(tmp_path, small(max_batches=1, compat=compat), judge=fair)
    for stem, text, _ in session.asked:
        shown = "Write about" in text
        assert shown == (stem.startswith("gate") or not released), stem


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.quirk(13)
def test_q13_results_are_cut_by_characters_in_the_reference(tmp_path, released):
    compat = Compat(tool_text_limits=released)
    config = small(max_batches=1, compat=compat)
    session = TaskSession(tmp_path / "run", config)

    async def long(queries):
        return ["\N{SNOWMAN}" * 600] * len(queries)  # three tokens a character here

    session.search = long
    stage.create_tasks(session, 1)
    session.folder.close()
    texts = result(session)[1]
    cut = "\N{SNOWMAN}" * (500 if released else 166)
    assert any(cut in text and "...(truncated)" in text for text in texts)
    assert not any(cut + "\N{SNOWMAN}" in text for text in texts)


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.quirk(14)
def test_q14_the_reference_leaves_json_searches_unguided(tmp_path, released):
    compat = Compat(unguided_tool_calls=released)
    _, session = create(tmp_path, small("tool_call", max_batches=1, compat=compat))
    lines = [
        json.loads(line)
        for text in result(session)[1]
        for line in text.split("\n")
        if line
    ]
    roles = {tuple(m["role"] for m in line["messages"])[:4] for line in lines}
    guided = ("user", "assistant", "tool", "user")
    assert (guided in roles) != released


@pytest.mark.quirk(25)
@pytest.mark.quirk(26)
def test_batches_go_on_in_the_permutation_with_draws_of_their_own(tmp_path):
    session = TaskSession(tmp_path / "run", small(prompts_per_batch=12))
    one, two, three = (batch_rows(session, 1, number) for number in (1, 2, 3))
    documents = [row.document.id for row in one + two + three]
    assert len(set(documents)) == 36
    assert [r.task_type for r in one] != [r.task_type for r in two]
    assert [task_seed(42, i) for i in (1, 2, 3)] == [44, 46, 48]
    session.folder.close()


def test_what_was_written_comes_back_from_its_file_as_it_was(tmp_path):
    session = TaskSession(tmp_path / "run", small("tool_call", samples=1))

    async def write():
        progress = []
        made = await stage.write_batch(session, 1, 1, lambda n, of: progress.append(n))
        assert progress == list(range(1, 9))
        return made

    made = session.run(write())
    read = session.run(stage.write_batch(session, 1, 1, lambda n, of: None))
    assert replace(made, seconds=0.0) == read
    assert made.count == 8 and made.candidates and made.rejected
    session.folder.close()


@pytest.mark.quirk(24)
def test_a_short_question_keeps_its_answer_and_is_measured_by_it(tmp_path):
    """The window is on the share of right answers; without an answer it is dropped."""
    config = small("tool_call", max_batches=1, samples=1, solver_rollouts=4)
    config = replace(
        config, challenger=replace(config.challenger, short_form_qa_ratio=1.0)
    )

    class Short(TaskSession):
        async def policy(self, request):
            done = await super().policy(request)
            if "<task>" not in done.text or request.seed64 % 2:
                return done
            return self.completion(f"<answer>Bern</answer>{done.text}")

    def sometimes(seed):
        return f"<answer>{'Bern' if seed % 2 else 'Basel'}</answer>"

    session = Short(tmp_path / "run", config, solver=sometimes)
    stage.create_tasks(session, 1)
    session.folder.close()
    made, texts, _ = result(session)
    assert made and {task.target for task in made} == {"Bern"}
    assert {task.difficulty for task in made} <= {0.25, 0.5, 0.75}
    assert session.count("grader") == 0
    assert any("no reference answer" in text for text in texts)


def test_every_candidate_says_why(tmp_path):
    _, session = create(tmp_path, small(samples=4, max_batches=2))
    lines = [
        json.loads(line)
        for text in result(session)[1]
        for line in text.split("\n")
        if line
    ]
    by_outcome = {line["outcome"]: line["why"] for line in lines}
    assert by_outcome["bad_format"] == [
        "its conversation or its task has a wrong format: dropped"
    ]
    assert by_outcome["gates_failed"][-1] == "gates failed: dropped"
    assert "lies within 0.2 to 0.8: kept" in by_outcome["kept"][-1]
    assert by_outcome["kept"][0].endswith("sum 2 of 2 needed: passed")
    assert sum("Solver rollout" in line for line in by_outcome["kept"]) == 3
