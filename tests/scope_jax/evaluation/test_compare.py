"""Models compared on benchmarks: scores by hand, kills, failing judges, two judges."""

import json
import random
from dataclasses import replace

import pytest

from models.errors import UserError
from retrieval.config import RetrievalConfig
from scope_jax.evaluation import compare, grading, results, searched
from scope_jax.evaluation.comparison import capped, read_rows
from scope_jax.evaluation.journal import Journal
from scope_jax.system.stopping import Stopped
from tests.scope_jax.evaluation import benchmark_world as world
from tests.scope_jax.evaluation.hosted import FAILURES, Hosted, serving
from tests.scope_jax.report.run_folders import embedded


@pytest.fixture
def players(monkeypatch):
    found = world.Players()
    world.script(monkeypatch, found)
    return found


@pytest.fixture
def hosted():
    with serving(Hosted(reply=world.said_by_judge)) as server:
        yield server


def means(found, model):
    sources = found["models"][model]["sources"]
    return {name: each["mean"] for name, each in sources.items()}


def test_the_page_has_every_answer_and_how_its_score_came_about(
    players, hosted, tmp_path
):
    compare.run(players.config, world.told(tmp_path, hosted.url, count=3))
    file = tmp_path / "out" / "scores" / "one" / "report.html"
    about, records = embedded(file.read_text())
    assert list(about["compared"]["models"]) == ["worse", "better"]
    assert about["compared"]["gains"]["better"]["researchqa"] == pytest.approx(0.75)
    assert len(records) == len(about["rollouts"]["rows"]) == 5 * 2 * 3
    by = {record["uid"]: record for record in records.values()}
    found = by["eval/researchrubrics/worse/1"]  # of 2, 1 and -1 the first is met
    assert found["rubrics"] == ["c0 (weight 2)", "c1", "c2 (weight -1)"]
    assert [each["label"] for each in found["judge"]] == ["not met", "met", "met"]
    assert "criteria_met" in found["judge"][0]["raw"]
    assert found["why"] == ["score 0, judged by criteria"]
    assert found["messages"][-1]["content"] == "<answer>worse number 1</answer>"
    short = by["eval/nq/better/0"]
    assert short["wanted"] == ["right: it is 0", "right: 0"]
    assert short["why"][-2:] == ["length factor 1", "score 1, judged by equivalence"]
    pair = by["eval/arena_hard_cw/worse/1"]
    assert pair["rubrics"] == ["baseline first", "model first"]
    assert [each["label"] for each in pair["judge"]] == ["A>B", "A>B"]
    covered = by["eval/researchqa/worse/0"]["judge"]
    assert [each["label"] for each in covered] == ["Barely", "Not at all"]
    rows = {row[1]: row for row in about["rollouts"]["rows"]}
    gap = about["rollouts"]["fields"].index("gap")
    assert rows["eval/researchqa/worse/0"][gap] == pytest.approx(0.75)


def test_scores_are_those_worked_by_hand(players, hosted, tmp_path):
    found = compare.run(players.config, world.told(tmp_path, hosted.url))
    # Of numbers 0 to 7: odd ones are met by ``worse``, even ones by ``better``.
    # Rubrics of 2, 1, -1: the first is met where the others are not, so the sum is
    # 2 or 0 of 3. Pairs: always A, or always B, so one half.
    assert means(found, "worse") == pytest.approx(
        {
            "nq": 1 / 2,
            "researchrubrics": (4 * 2 / 3 + 4 * 0) / 8,
            "researchqa": 1 / 8,
            "wildbench": sum(range(8)) / 9 / 8,
            "arena_hard_cw": 1 / 2,
        }
    )
    marks = [3, 4, 5, 6, 7, 8, 9, 0]
    assert means(found, "better") == pytest.approx(
        {
            "nq": 1 / 2,
            "researchrubrics": 1 / 3,
            "researchqa": 7 / 8,
            "wildbench": sum(marks) / 9 / 8,
            "arena_hard_cw": 1 / 2,
        }
    )
    gain = found["gains"]["better"]
    assert gain["sources"]["researchqa"]["mean"] == pytest.approx(0.75)
    assert gain["sources"]["researchqa"]["stderr"] == 0
    groups = found["models"]["worse"]["groups"]
    assert groups["avg_short"]["mean"] == 0.5 and groups["avg"]["n"] == 5
    long = [v for k, v in means(found, "worse").items() if k != "nq"]
    assert groups["avg_long"]["mean"] == pytest.approx(sum(long) / 4)
    nq = found["models"]["worse"]["sources"]["nq"]
    assert nq["exact_match"] == 0 and nq["f1"] == pytest.approx(1 / 2)
    page = (tmp_path / "out/scores/one/table.md").read_text()
    assert "| researchqa | 8 | 0.125 [0.125, 0.125] | 0.875 [0.875, 0.875] |" in page
    assert "gain over worse" in page


@pytest.mark.quirk(37)
def test_answers_and_verdicts_are_clean_lines(players, hosted, tmp_path):
    compare.run(players.config, world.told(tmp_path, hosted.url, count=3))
    out = tmp_path / "out"
    lines = (out / "answers/better/nq.jsonl").read_text().splitlines()
    record = json.loads(lines[0])
    assert len(lines) == 3 and record["searches"] == 1
    assert [m["role"] for m in record["messages"]] == ["user", "assistant"] * 2
    raw = (out / "answers/better/arena_hard_cw.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["answer"] for line in raw) == [
        f"better number {n}" for n in range(3)
    ]
    verdicts = [
        json.loads(line)
        for line in (out / "verdicts/one/better/researchrubrics.jsonl").open()
    ]
    assert len(verdicts) == 9
    for one in verdicts:
        assert "better number" in one["messages"][0]["content"] and one["text"]
        assert one["key"] == grading.key_of(one["messages"])
    cost = json.loads((out / "scores/one/cost.json").read_text())
    counted = cost["better"]["researchrubrics"]
    assert (counted["calls"], counted["completion_tokens"]) == (9, 63)
    lengths = [len(one["messages"][0]["content"]) for one in verdicts]
    assert counted["prompt_tokens"] == sum(lengths)
    line = json.loads((out / "scores/one/better/nq.jsonl").read_text().splitlines()[1])
    assert line["score"] in (0, 1) and line["labels"]["0"] == f"{line['score']:g}"


def test_calls_about_one_answer_share_all_but_their_end(players, hosted, tmp_path):
    compare.run(players.config, world.told(tmp_path, hosted.url, count=2))
    texts = [b["messages"][0]["content"] for b in hosted.bodies]
    criteria = [t for t in texts if "<criterion>" in t and "better number 1" in t]
    assert len(criteria) == 3
    starts = {text[: text.index("<criterion>")] for text in criteria}
    assert len(starts) == 1 and len(starts.pop()) > 0.6 * len(criteria[0])


@pytest.mark.parametrize("after", [1, 13, 41])
def test_a_killed_comparison_goes_on_to_the_same_bytes(
    players, hosted, tmp_path, after, monkeypatch
):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    compare.run(players.config, world.told(whole, hosted.url, count=4))
    answered = players.answered
    players.dies_after, players.answered = after, 0
    if after < answered:
        with pytest.raises(KeyboardInterrupt):
            compare.run(players.config, world.told(cut, hosted.url, count=4))
    players.dies_after = None
    # Then in the middle of the verdicts, with half a line on the disk.
    asked, ask = [], grading.Journal.add

    def add(self, record):
        if "verdicts" in self.path.parts:
            asked.append(record)
            if len(asked) > after:
                raise KeyboardInterrupt
        ask(self, record)

    monkeypatch.setattr(grading.Journal, "add", add)
    with pytest.raises(KeyboardInterrupt):
        compare.run(players.config, world.told(cut, hosted.url, count=4))
    monkeypatch.setattr(grading.Journal, "add", ask)
    [file, *_] = (cut / "out/verdicts").rglob("*.jsonl")
    with file.open("ab") as torn:
        torn.write(b'{"key": "half a li')
    assert players.answered == answered
    compare.run(players.config, world.told(cut, hosted.url, count=4))
    assert players.answered == answered
    assert world.written(cut) == world.written(whole)


def test_a_judge_that_fails_in_every_way_gives_the_same_table(
    players, tmp_path, hosted
):
    compare.run(players.config, world.told(tmp_path / "well", hosted.url, count=4))

    def fails(digest):
        return (FAILURES[digest % len(FAILURES)],) * (digest % 3)

    # Long enough for a busy machine to answer in time when it is not slow on purpose.
    ask = {"timeout": 3.0}
    with serving(Hosted(reply=world.said_by_judge, fails=fails, slow=5.0)) as ill:
        told = world.told(tmp_path / "ill", ill.url, count=4, ask=ask)
        compare.run(players.config, told)
    assert len(ill.bodies) > len(hosted.bodies)
    assert world.written(tmp_path / "ill") == world.written(tmp_path / "well")


def test_every_table_has_the_bootstraps_intervals(players, hosted, tmp_path, capsys):
    """They are no standard errors: of scores of 0 and 1 they never leave that range."""
    shown = {}
    for resamples in (200, 3):
        folder = tmp_path / str(resamples)
        how = results.Bootstrap(resamples=resamples, seed=0)
        found = compare.run(
            players.config,
            replace(world.told(folder, hosted.url, count=4), how=how),
        )
        nq = found["models"]["worse"]["sources"]["nq"]
        words = f"{nq['mean']:.3f} [{nq['low']:.3f}, {nq['high']:.3f}]"
        assert 0 <= nq["low"] <= nq["mean"] <= nq["high"] <= 1
        scores = folder / "out" / "scores" / "one"
        assert f"| nq | 4 | {words} |" in (scores / "table.md").read_text()
        assert words in capsys.readouterr().err
        about = embedded((scores / "report.html").read_text())[0]["compared"]
        assert about["models"]["worse"]["nq_low"] == nq["low"]
        shown[resamples] = words
    assert shown[200] != shown[3]


def test_what_fails_for_good_is_counted_and_the_same_in_any_order(
    players, tmp_path, hosted
):
    def fails(digest):
        return ("500", "always") if digest % 8 == 0 else ()

    pages = []
    for name in ("one", "two"):
        with serving(Hosted(reply=world.said_by_judge, fails=fails)) as ill:
            told = world.told(tmp_path / name, ill.url)
            found = compare.run(players.config, told)
        pages.append(world.written(tmp_path / name))
    assert pages[0] == pages[1]
    failed = [
        each["failed"]
        for model in found["models"].values()
        for each in model["sources"].values()
    ]
    assert 0 < sum(failed) < 40
    # As a second judge its other verdicts count.
    told = world.told(tmp_path / "two", hosted.url, judge="well", second="one")
    agreed = compare.run(players.config, told)["agreement"]["sources"]["all"]
    assert agreed["verdicts"] > 0 and agreed["kappa"] > 0.9
    hosted.bodies.clear()
    # The same command asks for them again, and for nothing else.
    told = world.told(tmp_path / "one", hosted.url)
    folder = tmp_path / "one" / "out" / "verdicts" / "one"
    known = json.loads((folder / "judge.json").read_text())
    known["judge"] = told.judge.chat.address
    (folder / "judge.json").write_text(json.dumps(known))
    found = compare.run(players.config, told)
    assert len(hosted.bodies) == sum(failed)
    compare.run(players.config, world.told(tmp_path / "well", hosted.url))
    assert world.written(tmp_path / "one") == world.written(tmp_path / "well")


def test_no_score_is_made_of_a_judge_that_mostly_fails(players, tmp_path, hosted):
    def fails(digest):
        return ("503", "always") if digest % 3 else ()

    with (
        serving(Hosted(reply=world.said_by_judge, fails=fails)) as ill,
        pytest.raises(Stopped, match=r"\d+ of \d+ calls of the judge failed.*503"),
    ):
        compare.run(players.config, world.told(tmp_path, ill.url))
    assert not (tmp_path / "out" / "scores").exists()


def test_a_second_judge_needs_no_new_answer_and_agreement_is_told(
    players, hosted, tmp_path
):
    compare.run(players.config, world.told(tmp_path, hosted.url))
    before = players.answered

    def stricter(messages):
        said = world.said_by_judge(messages)
        return said.replace("Completely", "Mostly") if "Completely" in said else said

    with serving(Hosted(reply=stricter)) as other:
        told = world.told(tmp_path, other.url, judge="two", second="one")
        found = compare.run(players.config, told)
    assert players.answered == before
    agreed = found["agreement"]
    assert agreed["with"] == "one"
    assert agreed["rank_of_models"] == pytest.approx(1)
    sources = agreed["sources"]
    assert sources["nq"]["kappa"] == sources["wildbench"]["kappa"] == 1
    # Of 32 phrases: 8 Completely/Mostly; 8 Mostly, 8 Barely, 8 Not at all, twice each.
    assert sources["researchqa"]["verdicts"] == 32
    same, chance = 3 / 4, (1 / 4 * 1 / 2 + 1 / 4 * 1 / 4 * 2)
    kappa = (same - chance) / (1 - chance)
    assert sources["researchqa"]["kappa"] == pytest.approx(kappa)
    with pytest.raises(UserError, match="nobody: has not judged all answers of worse"):
        compare.run(players.config, world.told(tmp_path, hosted.url, second="nobody"))


def test_other_settings_are_refused(players, hosted, tmp_path):
    compare.run(players.config, world.told(tmp_path, hosted.url, count=2))
    with pytest.raises(UserError, match=r"worse: answers made with other settings"):
        compare.run(
            players.config,
            world.told(tmp_path, hosted.url, count=2, temperature=1.0),
        )
    with pytest.raises(UserError, match=r"verdicts made with other settings \(judge"):
        compare.run(players.config, world.told(tmp_path, "http://else", count=2))
    with pytest.raises(UserError, match=r"--baseline nobody: is none of worse, better"):
        world.told(tmp_path, hosted.url, baseline="nobody")
    for name in ("a/b", ".."):
        with pytest.raises(UserError, match="as a name"):
            world.told(tmp_path, hosted.url, judge=name)


def test_another_search_is_refused_and_answers_of_older_versions_stay(
    players, hosted, tmp_path, caplog
):
    passages = tmp_path / "p.jsonl"
    passages.write_text('{"contents": "a\\nb"}\n')
    told = world.told(tmp_path, hosted.url, count=2)

    def run(url="", **changes):
        served = replace(players.config.inference, url=url)
        told_of = RetrievalConfig(passages=str(passages), **changes)
        config = replace(players.config, inference=served, retrieval=told_of)
        return compare.run(config, told)

    run()
    for file in (tmp_path / "out/answers").glob("*/model.json"):
        noted = json.loads(file.read_text())
        kept = {k: v for k, v in noted.items() if k not in searched.LATER}
        assert len(kept) == len(noted) - 3
        file.write_text(json.dumps(kept))
    before = players.answered
    run()
    assert players.answered == before
    assert "worse: answers of an older version, which did not note" in caplog.text
    with pytest.raises(UserError, match=r"search_settings: '' -> 'bm25_b=0.4'\)"):
        run(bm25_b=0.4)
    with pytest.raises(UserError, match="search_server: '' -> 'http://else'"):
        run(url="http://else")
    passages.write_text('{"contents": "a\\nc"}\n')
    with pytest.raises(UserError, match="search_passages: "):
        run()
    passages.unlink()  # another judge needs no passages
    run()


def test_samples_differ_and_are_averaged(players, hosted, tmp_path):
    found = compare.run(
        players.config,
        world.told(tmp_path, hosted.url, count=3, samples=4, temperature=1.0),
    )
    each = found["models"]["worse"]["sources"]["nq"]
    assert (each["n"], each["answers"]) == (3, 12)
    # Equal answers have equal calls, and those are made once.
    one = compare.run(players.config, world.told(tmp_path / "x", hosted.url, count=3))
    single = one["models"]["worse"]["sources"]["nq"]
    assert {k: v for k, v in each.items() if k != "answers"} == {
        k: v for k, v in single.items() if k != "answers"
    }


def test_sources_are_capped_as_in_the_reference(tmp_path):
    rows = list(range(100))
    assert capped(rows, 7, 42) == sorted(random.Random(42).sample(range(100), 7))
    assert capped(rows, 0, 42) == capped(rows, 100, 42) == rows
    given = world.files(tmp_path, 20)
    found = read_rows(given, 5)
    wanted = sorted(random.Random(42).sample(range(20), 5))
    assert [world.number_of(row.prompt) for row in found["nq"]] == wanted
    for bad in ("nq", "nq=", f"nq={tmp_path / 'none'}"):
        with pytest.raises(UserError):
            read_rows([bad])
    with pytest.raises(UserError, match="unknown: use one of"):
        read_rows([given[0].replace("nq=", "quiz=")])


def test_a_source_of_two_kinds_is_refused(tmp_path):
    """Its mean would be of the short form or not, by its first row."""
    rows = [
        {"source": "s", "prompt": "p", "judge": "equivalence", "golds": ["g"]},
        {"source": "s", "prompt": "q", "items": ["i"]},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match="source s: has rows of the judge equivalence"):
        read_rows([f"rows={file}"])


def test_a_damaged_line_is_named(tmp_path):
    file = tmp_path / "x.jsonl"
    with Journal(file) as kept:
        for key in "abc":
            kept.add({"key": key, "text": "ü"})
    assert list(Journal(file).records) == ["a", "b", "c"]
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + b"{]\n" + lines[2])
    with pytest.raises(UserError, match=r"x.jsonl:2: damaged: remove the line"):
        Journal(file)
    file.write_bytes(lines[0] + b'{"key": ' + b"[" * 10_000 + b"\n" + lines[2])
    with pytest.raises(UserError, match=r"x.jsonl:2: damaged: remove the line"):
        Journal(file)
    file.write_bytes(b"[1]\n")
    with pytest.raises(UserError, match="not a record with a key"):
        Journal(file)
    with (
        compare._locked(tmp_path),
        pytest.raises(UserError, match="another process is evaluating"),
        compare._locked(tmp_path),
    ):
        pass


def test_replay_takes_over_searches_and_writes_anew(players, hosted, tmp_path):
    pair = (world.entry("worse"), world.entry("better"))
    told = world.told(tmp_path, hosted.url, count=3, replayed=pair)
    found = compare.run(players.config, told)
    assert list(found["models"]) == ["worse", "better", "worse+better"]
    records = Journal(tmp_path / "out/answers/worse+better/nq.jsonl").records.values()
    for record in records:
        spoken = [m["content"] for m in record["messages"] if m["role"] == "assistant"]
        assert spoken[0] == "<search>worse wants it</search>"
        assert spoken[1].startswith("<answer>better number") and len(spoken) == 2
        assert record["searches"] == 0
    assert (
        found["gains"]["worse+better"]["sources"] == found["gains"]["better"]["sources"]
    )
    before = players.answered
    compare.run(players.config, told)
    assert players.answered == before


def test_names_that_tables_would_mix_up_are_one_line(tmp_path):
    row = read_rows(world.files(tmp_path, 1))["nq"]
    for end in ("_n", "_stderr", "_low", "_high"):
        with pytest.raises(UserError, match="source nq: another one has its name"):
            world.told(tmp_path, "http://x", rows={"nq": row, f"nq{end}": row})
    pair = (world.entry("a"), world.entry("b"))
    with pytest.raises(UserError, match=r"--model a\+b: the replay probe's pair"):
        world.told(tmp_path, "http://x", names=("a", "a+b"), replayed=pair)
