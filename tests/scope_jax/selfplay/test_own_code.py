"""Own rewards and tools: what they get, and that every fault in them is one line."""

import asyncio
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import configs
from models.errors import UserError
from scope_jax.method.types import Document, Rubric, Task
from scope_jax.run.folder import RunFolder
from scope_jax.selfplay import own_parts
from scope_jax.selfplay.own_code import OwnCode
from scope_jax.system.stopping import Stopped

TASK = Task(
    uid="7",
    type="writing",
    text="Report ..",
    document=Document(id="", title="", text=""),
    searches=0,
    rubrics=(Rubric("Names it."),),
    gate_scores={},
    difficulty=0.5,
)
ROLLOUT = SimpleNamespace(
    seed=(42, 1, "solver", 3, 0, 1), scored=({"role": "user", "content": "Report .."},)
)


def written(folder, code, name="score"):
    file = folder / "mine.py"
    file.write_text(code)
    return f"{file}:{name}"


def reward(folder, code, limit=60.0):
    """An own reward whose file has this code."""
    value = written(folder, code)
    config = configs.load("ci")
    solver = replace(config.solver, reward=value, reward_timeout=limit)
    return own_parts.reward_of(replace(config, solver=solver))


async def nobody(*_, **__):
    raise AssertionError("the judge is not asked")


def scored(own, judge=nobody):
    return asyncio.run(own_parts.score(own, judge, ROLLOUT, TASK, "an answer"))


HEAD = "async def score(task, answer, conversation, judge):\n    "


def test_a_reward_gets_task_answer_conversation_and_judge(tmp_path):
    asked = []

    async def judge(messages, **options):
        asked.append((messages, options, threading.current_thread()))
        return f"verdict {len(asked)}"

    (tmp_path / "neighbour.py").write_text("VALUE = 0.75")
    own = reward(
        tmp_path,
        "import neighbour\n" + HEAD + "said = [await judge([m], max_tokens=9)"
        " for m in conversation * 2]\n"
        "    assert said == ['verdict 1', 'verdict 2'], said\n"
        "    assert task.rubrics[0].text == 'Names it.' and answer == 'an answer'\n"
        "    conversation.clear()\n"
        "    return neighbour.VALUE",
    )
    assert scored(own, judge) == 0.75
    assert len(ROLLOUT.scored) == 1
    assert [o["max_tokens"] for _, o, _ in asked] == [9, 9]
    assert asked[0][1]["seed64"] != asked[1][1]["seed64"]
    assert {thread for *_, thread in asked} == {threading.current_thread()}
    first = [options for _, options, _ in asked]
    asked.clear()
    assert scored(own, judge) == 0.75
    assert [options for _, options, _ in asked] == first


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return 1 / 0", "ZeroDivisionError: division by zero (mine.py, line 2)"),
        ("raise ValueError('two\\nlines')", "ValueError: two (mine.py, line 2)"),
        ("raise KeyError", "KeyError (mine.py, line 2)"),
        ("return float('nan')", "gave nan for task 7, not a finite number"),
        ("return 1e400", "gave inf for task 7"),
        ("return None", "gave None for task 7"),
        ("return '1'", "gave '1' for task 7"),
        ("import sys; sys.exit(3)", "RuntimeError: SystemExit (mine.py, line 2)"),
        ("import asyncio; raise asyncio.CancelledError", "RuntimeError: CancelledErr"),
    ],
)
def test_a_fault_of_the_code_is_one_line_that_ends_the_run(tmp_path, body, said):
    own = reward(tmp_path, HEAD + body)
    with pytest.raises(Stopped) as caught:
        scored(own)
    line = str(caught.value)
    assert line.startswith(f"error: solver.reward={tmp_path}/mine.py:score: ")
    assert said in line and "\n" not in line and "correct the file" in line
    assert (caught.value.code, caught.value.at_once) == (2, True)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def score(task, answer, conversation, judge): 1", "is no async function"),
        ("async def score(task, answer): 1", "can't be called with task, answer, conv"),
        ("async def score(task, answer, conversation, judge, x): 1", "missing a requi"),
        ("async def other(): 1", "the file has no score: write `async def score(task"),
        ("score = 3", "is no async function"),
        ("import no_such_module", "No module named 'no_such_module' (mine.py, line 1)"),
        ("x = 1\nx +", "SyntaxError: invalid syntax (mine.py, line 2)"),
        ("raise SystemExit(3)", "SystemExit: 3 (mine.py, line 1)"),
    ],
)
def test_what_can_be_known_at_the_start_is_said_at_the_start(tmp_path, code, said):
    with pytest.raises(UserError) as caught:
        reward(tmp_path, code)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    for value, why in (
        (f"{tmp_path}/none.py:score", "no such file"),
        ("mine.py", "names no code: write it as FILE.py:NAME"),
        ("mine.py:a-b", "names no code"),
    ):
        with pytest.raises(UserError, match=why):
            solver = replace(configs.load("ci").solver, reward=value)
            own_parts.reward_of(replace(configs.load("ci"), solver=solver))


@pytest.mark.parametrize(
    "body",
    [
        "await asyncio.sleep(1000)",
        "time.sleep(1000)",
        "await asyncio.to_thread(time.sleep, 1000)",
        "t = threading.Thread(target=time.sleep, args=(1000,)); t.start(); t.join()",
        "while True: await asyncio.sleep(0)",
    ],
)
def test_a_call_over_its_limit_ends_the_process_in_one_line(tmp_path, body):
    """Also from a thread that never ends: nobody waits for it."""
    code = f"import asyncio, threading, time\n{HEAD}{body}\n    return 1.0"
    value = written(tmp_path, code)
    program = (
        "import asyncio; from scope_jax.run import cli\n"
        "from scope_jax.selfplay.own_code import OwnCode\n"
        f"own = OwnCode('solver.reward', {value!r}, "
        "('task', 'answer', 'conversation', 'judge'), limit=0.5, "
        "limit_setting='solver.reward_timeout')\n"
        "async def main():\n"
        "    call = dict(task=1, answer='', conversation=[], judge=None)\n"
        "    await asyncio.gather(own(**call), own(**call))\n"
        "cli.run_main(lambda argv: asyncio.run(main()))"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300
    )
    assert time.monotonic() - start < 200
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: solver.reward={value}: a call has taken more than 0.5 s "
        "(solver.reward_timeout): make it faster or raise the limit; the same command "
        "goes on\n"
    )


def test_the_judges_time_does_not_count_and_its_failure_is_its_own(tmp_path):
    async def slow(messages, **_):
        await asyncio.sleep(0.6)
        return "yes"

    async def away(messages, **_):
        raise Stopped("error: the judge is away", 1)

    code = HEAD + "return float(await judge([{}]) == 'yes')"
    assert scored(reward(tmp_path, code, limit=0.4), slow) == 1.0
    hidden = HEAD + "try: return float(await judge([{}]) == 'yes')\n    "
    hidden += "except BaseException: return 0.0"
    for each in (code, hidden):
        with pytest.raises(Stopped, match="the judge is away"):
            scored(reward(tmp_path, each), away)


def test_many_short_calls_may_wait_longer_than_the_limit_of_one(tmp_path):
    code = "import time\n" + HEAD + "time.sleep(0.02)\n    return 1.0"
    own = reward(tmp_path, code, limit=1.0)

    async def all_of_them():
        call = {"task": 1, "answer": "", "conversation": [], "judge": nobody}
        return await asyncio.gather(*(own(**call) for _ in range(100)))

    assert asyncio.run(all_of_them()) == [1.0] * 100


def tool(folder, code):
    value = written(folder, code, "search")
    return own_parts.tool_of(replace(configs.load("ci"), tools=value))


def test_a_tool_gives_a_text_for_each_query_or_the_run_ends(tmp_path):
    head = "async def search(queries):\n    return "
    own = tool(tmp_path, head + "[q.upper() for q in queries]")
    found = asyncio.run(own_parts.use(own, ("a", "b")))
    assert found == ["A", "B"]
    for body, said in (
        ("queries[:1]", "gave 1 values for 2 queries, not a list with a text for each"),
        ("None", "gave None for 2 queries"),
        ("[1, 2]", "gave 2 values for 2 queries"),
        ("'ab'", "gave 'ab' for 2 queries"),
        ("queries.missing", "AttributeError"),
    ):
        with pytest.raises(Stopped, match=said) as caught:
            asyncio.run(own_parts.use(tool(tmp_path, head + body), ("a", "b")))
        assert caught.value.code == 2


def test_a_reward_and_a_tool_of_one_file_share_its_module_and_its_thread(
    tmp_path, monkeypatch
):
    code = (
        "import threading\nSEEN = []\nprint('imported')\n"
        "async def search(queries):\n    SEEN.extend(queries)\n"
        "    return [threading.current_thread().name + str(threading.get_ident())]\n"
        + HEAD
        + "return float(threading.get_ident() if SEEN == ['q'] else -1)"
    )
    shown = []
    monkeypatch.setattr("builtins.print", shown.append)
    value = written(tmp_path, code)
    (tmp_path / "link.py").symlink_to(tmp_path / "mine.py")
    config = configs.load("ci")
    solver = replace(config.solver, reward=value)
    config = replace(config, solver=solver, tools=f"{tmp_path}/link.py:search")
    config = own_parts.pinned(config)
    found = asyncio.run(own_parts.use(own_parts.tool_of(config), ["q"]))
    thread = scored(own_parts.reward_of(config))
    assert found == [f"own code{int(thread)}"] and shown == ["imported"]
    assert scored(reward(tmp_path, code + "  # changed")) == -1
    assert shown == ["imported"] * 2


def test_a_changed_file_is_another_run(tmp_path):
    value = written(tmp_path, HEAD + "return 1.0")
    config = configs.load("ci")
    config = replace(config, solver=replace(config.solver, reward=value))
    begun = own_parts.pinned(config)
    assert begun.solver.reward_hash and begun == own_parts.pinned(begun)
    RunFolder(tmp_path / "run", begun).close()
    RunFolder(tmp_path / "run", own_parts.pinned(config)).close()
    Path(value.rpartition(":")[0]).write_text(HEAD + "return 2.0")
    with pytest.raises(UserError, match=r"different configuration .*reward_hash"):
        RunFolder(tmp_path / "run", own_parts.pinned(config))
    with pytest.raises(UserError, match=r"has the hash .*, not .* as the run's"):
        own_parts.pinned(begun)


def test_without_own_code_nothing_is_pinned():
    config = configs.load("ci")
    assert own_parts.pinned(config) is config
    assert own_parts.reward_of(config) is None and own_parts.tool_of(config) is None


def test_own_code_is_called_with_the_arguments_that_it_asks_for(tmp_path):
    value = written(tmp_path, "async def score(**given):\n    return sorted(given)")
    own = OwnCode("x", value, ("b", "a"), limit=9, limit_setting="y")
    assert asyncio.run(own(b=1, a=2)) == ["a", "b"]
