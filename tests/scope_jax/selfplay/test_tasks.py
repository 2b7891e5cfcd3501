"""Task creation (spec 11): batches written, sifted, interrupted and resumed."""

import asyncio
import json
from dataclasses import replace

import pytest

from scope_jax.method.compat import Compat
from scope_jax.method.types import TOOL_FORMATS
from scope_jax.run.folder import LostArtefactError, needed_from
from scope_jax.selfplay import tasks as stage
from scope_jax.selfplay.task_file import read_tasks
from scope_jax.selfplay.task_writing import Written, batch_prompts, task_seed
from scope_jax.system import settings
from tests.scope_jax.selfplay.task_players import (
    TaskPlayers,
    create,
    judge,
    outcomes,
    result,
    small,
)


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
def test_timing_changes_nothing(tmp_path, tool_format):
    """Who answers first, and how many are under way, shows nowhere."""
    config = small(tool_format)
    first, players = create(tmp_path / "0", config)
    assert len(first[0]) == 12 and len(first[2]) > 1
    assert set(outcomes(players)) >= {"kept", "bad_format", "gates_failed"}
    for jitter, sub_batch in ((1, 6), (2, 1), (3, 500)):
        other = replace(config, tasks=replace(config.tasks, sub_batch=sub_batch))
        again, _ = create(tmp_path / str(jitter), other, jitter=jitter)
        assert again == first


def test_the_next_batch_is_written_while_one_is_sifted(tmp_path):
    """The judge answers for batch 1 only once batch 2 is written, or else never."""
    config = small(target=6, max_batches=2)
    players = TaskPlayers(tmp_path / "run", config)
    first = players.folder.task_batch(1, 1)
    second = players.folder.task_drafts(1, 2)
    seen = []

    async def wait_for_batch_2():
        while not second.exists() and not first.exists():
            await asyncio.sleep(0.001)
        seen.append(second.exists())

    ask = players.ask_judge

    async def slow(messages, **options):
        await wait_for_batch_2()
        return await ask(messages, **options)

    players.ask_judge = slow
    stage.create_tasks(players.parts(), 1)
    assert any(seen)
    assert len(read_tasks(players.folder.tasks(1))) == 6
    players.folder.close()


def test_the_engines_work_is_each_batch_s_own(tmp_path):
    (_, _, records), players = create(tmp_path, small())
    work = [record["perf/judge_prefill_tokens"] for record in players.tracker.records]
    assert len(records) > 1 and min(work) > 0
    assert sum(work) == len(players.asked)


def test_a_batch_written_for_nothing_is_called_off_and_leaves_no_file(tmp_path):
    (made, _, records), players = create(tmp_path, small(target=2))
    assert (len(made), len(records)) == (2, 1)
    assert {p.name for p in (players.folder.path / "tasks/iter_1").iterdir()} == {
        "batch_0001.parquet",
        "SHA256SUMS",
    }
    whole, _ = create(tmp_path / "whole", small(target=2, max_batches=1))
    assert whole[0] == made


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_killed_in_any_batch_it_goes_on_and_writes_nothing_twice(tmp_path, batch):
    config = small()
    whole, through = create(tmp_path / "whole", config)

    def deadly(stem, text, retry):
        if (players.folder.task_batch(1, batch - 1).exists() or batch == 1) and (
            stem == "grader"
        ):
            raise Killed
        return judge(stem, text, retry)

    players = TaskPlayers(tmp_path / "run", config, judge=deadly)
    with pytest.raises(Killed):
        stage.create_tasks(players.parts(), 1)
    players.folder.close()
    drafts = players.folder.task_drafts(1, batch)
    assert drafts.is_file()
    before = settings.load(Written, drafts)

    again = TaskPlayers(tmp_path / "run", config, jitter=9)
    again.tracker.records = players.tracker.records
    stage.create_tasks(again.parts(), 1)
    again.folder.close()
    assert result(again) == whole
    assert not drafts.exists()
    played = {seed for seed in players.written if seed not in again.written}
    assert len(played) >= before.count  # what was written was not written again
    assert set(players.written + again.written) >= set(through.written)


@pytest.mark.parametrize("name", ["iter_1/batch_0002.parquet", "iter_1.parquet"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "removed"])
def test_damaged_tasks_are_made_again(tmp_path, name, damage, caplog):
    """A damaged batch costs it and those after it; the file of all of them nothing."""
    config = small()
    players = TaskPlayers(tmp_path / "run", config)
    stage.create_tasks(players.parts(), 1)
    whole = result(players)
    players.folder.close()
    tasks = players.folder.path / "tasks"
    files = {f: f.read_bytes() for f in tasks.rglob("*") if f.is_file()}
    data = bytearray((tasks / name).read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 4
    (tasks / name).write_bytes(data[:-9] if damage == "cut" else data)
    if damage == "removed":
        (tasks / name).unlink()
    lost = pytest.raises(LostArtefactError, match=r"\.parquet: n")
    with lost as caught, needed_from("iter_1/tasks"):
        read_tasks(tasks / name)
    assert caught.value.stage == "iter_1/tasks"

    again = TaskPlayers(tmp_path / "run", config)
    again.tracker.records = players.tracker.records
    stage.create_tasks(again.parts(), 1)
    again.folder.close()
    assert result(again) == whole
    assert {f: f.read_bytes() for f in tasks.rglob("*") if f.is_file()} == files
    if "batch" in name and damage != "removed":
        assert "tasks from batch 2 on are made again" in caplog.text


@pytest.mark.parametrize(
    ("name", "damaged"),
    [("batch_0001.written.json", "{"), ("batch_0001.written.jsonl", '{"old": 1}\n')],
)
def test_drafts_that_cannot_be_read_are_written_again(tmp_path, name, damaged, caplog):
    """Cut off by a full disk, or of a version that wrote them otherwise."""
    config = small(target=2, max_batches=1)
    whole, _ = create(tmp_path / "whole", config)
    players = TaskPlayers(tmp_path / "run", config)
    file = players.folder.path / "tasks/iter_1" / name
    file.parent.mkdir(parents=True)
    file.write_text(damaged)
    stage.create_tasks(players.parts(), 1)
    players.folder.close()
    assert result(players) == whole
    assert not file.exists()
    [said] = [r.getMessage() for r in caplog.records if name in r.getMessage()]
    assert said == f"{file}: cannot be read: this batch is written again"


def test_an_interruption_leaves_nothing_running(tmp_path):
    """Ctrl-C cancels the stage; what it had under way ends with it."""
    players, seen = TaskPlayers(tmp_path / "run", small()), []

    def interrupted(work):
        async def main():
            players.stage = asyncio.current_task()
            try:
                await work
            finally:
                seen.append(asyncio.all_tasks() - {asyncio.current_task()})

        return asyncio.run(main())

    def cancelling(stem, text, retry):
        if stem == "grader":
            players.stage.cancel()
        return judge(stem, text, retry)

    players.run, players._judge = interrupted, cancelling
    with pytest.raises(asyncio.CancelledError):
        stage.create_tasks(players.parts(), 1)
    players.folder.close()
    assert seen == [set()]


def test_a_short_result_is_reported(tmp_path, caplog):
    (made, _, _), players = create(tmp_path, small(target=500, max_batches=2))
    assert 0 < len(made) < 500
    wanted = f"iteration 1: {len(made)} of 500 tasks after 2 batches of 8 prompts"
    assert wanted in caplog.text
    manifest = json.loads((players.folder.path / "manifest.json").read_text())
    facts = manifest["stages"]["iter_1/tasks"]
    assert (facts["tasks"], facts["wanted"], facts["batches"]) == (len(made), 500, 2)


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.quirk(13)
def test_q13_results_are_cut_by_characters_in_the_reference(tmp_path, released):
    compat = Compat(tool_text_limits=released)
    config = small(max_batches=1, compat=compat)
    players = TaskPlayers(tmp_path / "run", config)

    async def long(queries):
        return ["\N{SNOWMAN}" * 600] * len(queries)  # three tokens a character here

    players.search = long
    stage.create_tasks(players.parts(), 1)
    players.folder.close()
    texts = result(players)[1]
    cut = "\N{SNOWMAN}" * (500 if released else 166)
    assert any(cut in text and "...(truncated)" in text for text in texts)
    assert not any(cut + "\N{SNOWMAN}" in text for text in texts)


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.quirk(14)
def test_q14_the_reference_leaves_json_searches_unguided(tmp_path, released):
    compat = Compat(unguided_tool_calls=released)
    _, players = create(tmp_path, small("tool_call", max_batches=1, compat=compat))
    lines = [
        json.loads(line)
        for text in result(players)[1]
        for line in text.split("\n")
        if line
    ]
    roles = {tuple(m["role"] for m in line["messages"])[:4] for line in lines}
    guided = ("user", "assistant", "tool", "user")
    assert (guided in roles) != released


@pytest.mark.quirk(25)
@pytest.mark.quirk(26)
def test_batches_go_on_in_the_permutation_with_draws_of_their_own(tmp_path):
    players = TaskPlayers(tmp_path / "run", small(prompts_per_batch=12))
    one, two, three = (batch_prompts(players.world, 1, number) for number in (1, 2, 3))
    documents = [prompt.document.id for prompt in one + two + three]
    assert len(set(documents)) == 36
    assert [r.task_type for r in one] != [r.task_type for r in two]
    assert [task_seed(42, i) for i in (1, 2, 3)] == [44, 46, 48]
    players.folder.close()


def test_what_was_written_comes_back_from_its_file_as_it_was(tmp_path):
    players = TaskPlayers(tmp_path / "run", small("tool_call", samples=1))
    file = players.folder.task_drafts(1, 1)

    async def write():
        progress = []
        made = await stage.write_batch(
            players.world, file, 1, 1, lambda n, of: progress.append(n)
        )
        assert progress == list(range(1, 9))
        return made

    made = players.run(write())
    read = players.run(stage.write_batch(players.world, file, 1, 1, lambda n, of: None))
    assert replace(made, seconds=0.0) == read
    assert made.count == 8 and made.candidates and made.rejected
    players.folder.close()
