"""What is read, and what must hold of it: one check per kind of input.

Each is a function of a seeded source of random numbers; it returns the class of what
came out, for the count, and raises on anything that should not be.
"""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fuzz_draws import JUNK, broken, texts


def can_be_written(value: Any) -> str:
    """The value as a file of a run holds it."""
    text = json.dumps(value, ensure_ascii=False)
    text.encode()
    return text


def one_line(error: Exception) -> str:
    """The message of a ``UserError``, as a script prints it."""
    said = " ".join(str(error).split())
    said.encode("utf-8", "backslashreplace")
    assert said, "an error without a word"
    return said


# Parsers ------------------------------------------------------------------------------


def parsers(folder: Path) -> Iterator[Callable[[random.Random], str]]:
    """All that reads what a model or a judge wrote."""
    from scope_jax.method import (
        challenger_output,
        conversation,
        formats,
        judge,
        judge_bias,
        prompts,
        search_errors,
        solver,
        solver_output,
        turn_rules,
    )
    from scope_jax.method.compat import OFF, Compat
    from scope_jax.method.types import TOOL_FORMATS

    sets = {name: prompts.load("default", name) for name in TOOL_FORMATS}
    kinds = ("challenger", "solver", "solver_eval", "difficulty", "task")
    biased = judge_bias.JudgeBias(length=0.5, hedging=0.5, flattery=0.5)

    def read(draw: random.Random) -> str:
        text, other = texts(draw), texts(draw)
        compat = draw.choice([OFF, Compat.released()])
        assert judge.parse_grade(text, compat=compat) in (None, 0, 0.5, 1)
        assert judge.parse_gate(text, compat=compat) in (None, 0, 1)
        rubrics = judge.parse_rubrics(text, compat=compat)
        good = [r for r in rubrics.rubrics if r.text]
        assert rubrics.valid == (3 <= len(good) == len(rubrics.rubrics) <= 10)
        can_be_written(asdict(rubrics))
        assert 0 <= judge_bias.chance(biased, text, other) <= 1
        assert solver.exact_match(text, [text])
        name = draw.choice(TOOL_FORMATS)
        task = challenger_output.parse_task(text, name)
        assert task.valid == bool(task.task)
        error = search_errors.search_error(text, name)
        assert (error is None) == (formats.first_search(text, name) is not None)
        messages = play(draw, name, compat, text, other)
        answer = solver_output.parse_answer(messages)
        assert answer.valid == bool(answer.answer)
        can_be_written([asdict(task), asdict(answer)])
        scores = [
            solver_output.format_score(messages, name),
            challenger_output.format_score(messages, 2, name, compat=compat),
        ]
        for score in scores:
            assert all(0 <= value <= 1 for value in asdict(score).values())
        assert challenger_output.short_answer_score(messages) in (0, 0.5, 1)
        asked = [
            *sets[name].grade(text, other, text),
            *sets[name].rubric(text, "writing", other),
            *sets[name].challenger(text, "writing", 2),
            *sets[name].gate("entity", task=text, document=other),
        ]
        can_be_written([dict(message) for message in asked])
        return "task" if task.valid else "answer" if answer.valid else "neither"

    def play(draw, name, compat, *first) -> list[Any]:
        """A conversation that these texts lead to, to its end."""
        spec = turn_rules.ConversationSpec(
            kind=draw.choice(kinds),
            tool_format=name,
            prompts=sets[name],
            num_searches=draw.choice([None, 0, 2]),
            max_turns=draw.choice([1, 3]),
            forced_rounds=draw.choice([0, 2]),
            style=draw.choice(["chain2", "chain2_xml", "none"]),
            compat=compat,
        )
        state, action = conversation.start(spec, sets[name].solver(first[1], 2))
        said = [*first, *(texts(draw) for _ in range(8))]
        while not isinstance(action, conversation.Finish):
            if isinstance(action, conversation.Search):
                can_be_written(action.queries)
                assert all(isinstance(query, str) for query in action.queries)
                found = [draw.choice([first[0], "Search error: x"])] * len(
                    action.queries
                )
                state, action = conversation.observe(state, found, lambda t: t[:500])
            else:
                why = draw.choice(["stop", "stop", "length"])
                state, action = conversation.step(state, said.pop(0), why)
        can_be_written([dict(message) for message in state.messages])
        can_be_written([state.turn_log, state.passages])
        return list(state.played)

    yield read


# Passages files -----------------------------------------------------------------------


def _rows(draw: random.Random) -> bytes:
    rows = []
    for number in range(draw.randint(0, 6)):
        row = {"id": draw.choice([str(number), number]), "contents": f"T{number}\na"}
        if draw.random() < 0.3:
            row["title"] = draw.choice([f"T{number}", "Other", None])
        for _ in range(draw.choice([0] * 9 + [1, 2])):
            name = draw.choice(["id", "contents", "title", "more", "\ud800"])
            row[name] = draw.choice([*JUNK, texts(draw)])
        rows.append(json.dumps(row, ensure_ascii=draw.random() < 0.5))
        if draw.random() < 0.1:
            rows.append(
                draw.choice(["", " ", "\r", "[]", "1", '"a"', "{}", "\ufeff{}"])
            )
    end = draw.choice(["\n", "\r\n", "\n\n"])
    content = (end.join(rows) + draw.choice(["", end])).encode("utf-8", "surrogatepass")
    return broken(draw, content) if draw.random() < 0.25 else content


def passages(folder: Path) -> Iterator[Callable[[random.Random], str]]:
    """Passages files, with and without the offsets that are kept beside them."""
    from models.errors import UserError
    from retrieval.config import RetrievalConfig
    from retrieval.passages import Passages
    from retrieval.search import Searcher

    file, index = folder / "passages.jsonl", folder / "passages.jsonl.index"

    def read(draw: random.Random) -> str:
        content, bad_text = _rows(draw), draw.choice(["refuse", "replace"])
        file.write_bytes(content)
        kept = index / "passages.npz"
        for old in [*index.rglob("*")][::-1]:
            old.unlink() if old.is_file() else old.rmdir()
        try:
            found = list(Passages(file, cache_dir=index, bad_text=bad_text))
            if draw.random() < 0.3:
                kept.write_bytes(broken(draw, kept.read_bytes()))
            again = list(Passages(file, cache_dir=index, bad_text=bad_text))
            assert found == again and found
            can_be_written([asdict(passage) for passage in found])
            if draw.random() < 0.1:
                config = RetrievalConfig(
                    passages=str(file), bad_text=bad_text, lexical_dim=64
                )
                searcher = Searcher(config, progress=False)
                for row in searcher.search(["river", texts(draw)[:1000], "T1"], 2):
                    assert all(passage in found for passage, _ in row)
        except UserError as error:
            said = one_line(error)
            assert str(file) in said, said
            return "refused"
        return "read"

    yield read


# Command lines and settings -----------------------------------------------------------


def overrides(folder: Path) -> Iterator[Callable[[random.Random], str]]:
    """Command lines of ``train.py``, and the config.json of a run."""
    import configs
    from models.errors import UserError
    from scope_jax.config import Config
    from scope_jax.method.draws import search_schedule
    from scope_jax.run import cli
    from scope_jax.system import settings

    known = dict.fromkeys(
        name
        for part in (configs.load("tiny"), cli.RunOptions())
        for name, _, _ in settings.leaves(part)
    )
    known = list(known)
    values = [
        "0", "1", "-1", "2", "0.5", "-0.5", "1e-50", "1e39", "1e999", "nan", "inf",
        str(2**31), str(2**63), str(2**70), "0x10", "1_000", " 1", "", " ", "true",
        "None", "none", "a", "é", "\udcff", "\U0001f600", "x" * 3000, "1" * 5000, "/",
        "\n", "--", "-", "-1.5", "[]", "{}", "(1,)", "tent", "lexical", "4:3:2", "no",
        "http://h:1", "http://h:99999", "http://[", "garbage", "2024-02-30", "0:0",
        "2024-02-29", "..", "-inf", "entity", "tool_call", "adam",
        "%d", "{x}", "$HOME", "\u0661", "=", "a=b",
    ]  # fmt: skip

    def name_of(draw: random.Random) -> str:
        name = draw.choice(known)
        how = draw.random()
        if how < 0.7:
            return name
        if how < 0.8:
            at = draw.randrange(len(name))
            return (
                name[:at] + draw.choice(["", ".", "_", "-", "x", "é"]) + name[at + 1 :]
            )
        parts = name.split(".")
        return draw.choice(
            [parts[0], parts[-1], name.replace("_", "-"), "no_" + name, "", name + ".x"]
            + [".".join([*parts[:-1], "no-" + parts[-1]]), "config", "=", "\udcff"]
        )

    def line(draw: random.Random) -> list[str]:
        argv = ["--config", "tiny"] if draw.random() < 0.97 else []
        for _ in range(draw.choice([1, 1, 1, 2, 3])):
            name, value = name_of(draw), draw.choice(values)
            how = draw.random()
            if how < 0.5:
                argv += [f"--{name}", value]
            elif how < 0.7:
                argv += [f"--{name}={value}"]
            elif how < 0.8:
                argv += [f"--{name}"]
            elif how < 0.9:
                argv += [f"--{name}", value, draw.choice(values)]
            else:
                argv.insert(draw.randint(0, len(argv)), draw.choice(values))
        return [token for token in argv if token not in ("-h", "--help")]

    def command(draw: random.Random) -> str:
        try:
            config, _ = cli.parse(line(draw), configs)
            text = settings.to_json(config)
            text.encode()
            assert settings.from_json(Config, text) == config
            schedule = search_schedule(config.challenger.schedule, 6, 0)
            assert len(schedule) == 6
        except UserError as error:
            one_line(error)
            return "refused"
        return "taken"

    def stored(draw: random.Random) -> str:
        text = settings.to_json(configs.load("tiny"))
        if draw.random() < 0.3:
            text = broken(draw, text.encode()).decode("utf-8", "replace")
        else:
            whole = place = json.loads(text)
            while isinstance(place[name := draw.choice([*place])], dict):
                place = place[name]
            place[name] = draw.choice([*JUNK, 0.5, "1", 10, ["a"], place[name]])
            if draw.random() < 0.1:
                place[draw.choice([name + "x", "\ud800", ""])] = place.pop(name)
            text = json.dumps(whole)
        try:
            config = settings.from_json(Config, text)
            can_be_written(asdict(config))
        except UserError as error:
            one_line(error)
            return "stored: refused"
        return "stored: taken"

    yield command
    yield stored


TARGETS = {"parsers": parsers, "passages": passages, "overrides": overrides}
