"""Who may ask the server what: other sites' pages, other people, other folders."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import inference_world as world
import pytest

import serve
from models.errors import UserError
from rl.records import Request, SamplingParams
from scope_jax.inference import access, server
from scope_jax.inference.access import Secrets
from scope_jax.inference.client import RequestRefused
from scope_jax.inference.transport import Failed

ASKED = {"model": "judge", "prompt": "a", "max_tokens": 1}


@pytest.fixture
def bare(server):
    """A client that shows nothing of its own."""
    with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as http:
        yield http


def hashes(http):
    return {m["id"]: m["hash"] for m in http.get("/v1/models").json()["data"]}


def test_a_web_page_cannot_exchange_the_judge(bare, folder):
    before = hashes(bare)
    body = json.dumps({"path": str(folder / "trained")})
    # What a browser sends for a page of another site without asking first.
    page = {"Origin": "http://evil.example", "Content-Type": "text/plain"}
    answer = bare.post("/v1/models/judge", content=body, headers=page)
    assert hashes(bare) == before
    assert answer.status_code in (403, 415)


@pytest.mark.parametrize(
    ("changed", "status", "says"),
    [
        ({"Host": "evil.example"}, 403, "Host"),
        ({"Host": "evil.example:80"}, 403, "Host"),
        ({"Host": "["}, 403, "Host"),
        ({"Host": "127.0.0.1.evil.example"}, 403, "Host"),
        ({"Origin": "http://evil.example"}, 403, "Origin"),
        ({"Origin": "null"}, 403, "Origin"),
        ({"Content-Type": "text/plain"}, 415, "application/json"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415, "application"),
        ({"X-Scope-Control": "guessed"}, 403, "SCOPE_CONTROL_SECRET"),
    ],
)
def test_other_names_other_sites_and_other_types_are_refused(
    bare, changed, status, says
):
    headers = {"Content-Type": "application/json"} | changed
    for path, body in (("/v1/completions", ASKED), ("/retrieve", {"queries": ["a"]})):
        answer = bare.post(path, content=json.dumps(body), headers=headers)
        assert answer.status_code == status
        assert says in answer.json()["error"]["message"]


def test_names_of_this_machine_and_its_own_pages_are_let_in(server, bare):
    port = server.url.rsplit(":", 1)[1]
    for name in (f"localhost:{port}", f"[::1]:{port}", "127.0.0.1"):
        own = {"Host": name, "Origin": f"http://{name}"}
        assert bare.post("/v1/completions", json=ASKED, headers=own).is_success


def test_models_are_exchanged_by_who_has_the_secret_alone(bare, folder, http):
    before, body = hashes(bare), {"path": str(folder / "trained")}
    for shown in ({}, {"X-Scope-Control": "x"}, {"Authorization": "Bearer x"}):
        answers = [
            bare.post("/v1/models/judge", json=body, headers=shown),
            bare.delete("/v1/models/judge", headers=shown),
        ]
        assert [answer.status_code for answer in answers] == [403, 403]
    assert hashes(bare) == before
    for name in ("", "a b", "a%00", "\u00e9", "x" * 200):
        refused = http.post(f"/v1/models/{name}", json=body)
        assert refused.status_code in (400, 404, 405)


def test_folders_beyond_the_roots_are_one_to_the_outside(http, tmp_path, folder):
    world.write_model(tmp_path / "model", seed=3)
    (tmp_path / "file").touch()
    (folder / "inside.txt").touch()
    outside = [
        str(tmp_path / "model"),
        str(tmp_path / "missing"),
        str(tmp_path / "file"),
        str(folder / ".." / tmp_path.name),
        f"{folder}/../{folder.name}/base",
        "/",
        "owner/name",
        "~nobody-at-all/x",
        "a\0b",
        "\ud800",
        "x" * 4096,
        str(folder / "inside.txt"),
        str(folder / "missing"),
    ]
    answers = [http.post("/v1/models/solver", json={"path": p}) for p in outside[:-4]]
    for path in outside[-4:]:
        kind = {"Content-Type": "application/json"}
        content = json.dumps({"path": path})
        answers.append(http.post("/v1/models/solver", content=content, headers=kind))
    assert {answer.status_code for answer in answers} == {400}
    assert len({answer.text for answer in answers}) == 1


def test_no_answer_tells_where_anything_lies(http, folder):
    (folder / "empty").mkdir(exist_ok=True)
    answers = [http.get(path) for path in ("/v1/models", "/stats", "/ready")]
    for body in ({"path": str(folder / "empty")}, {"path": str(folder / "base")}):
        answers.append(http.post("/v1/models/solver", json=body | {"hash": "0" * 64}))
    answers.append(http.post("/v1/models/solver", json={"path": str(folder / "base")}))
    assert [answer.status_code for answer in answers] == [200, 200, 200, 400, 400, 200]
    assert not [answer.text for answer in answers if str(folder.parent) in answer.text]


def test_the_secret_stands_in_no_file_and_no_command_line(server, folder):
    secret = server.secrets.control
    assert len(secret) >= 40 and secret not in repr(server.secrets)
    for file in [folder / "inference.log", *(folder / "inference").rglob("*.json")]:
        assert secret not in file.read_text()
    command = Path(f"/proc/{server.pid}/cmdline").read_text()
    assert "config-file" in command and secret not in command


def test_answers_name_the_weights_and_the_client_looks(server, http):
    request = Request(ids=(1,), sampling=SamplingParams(max_new_tokens=2), seed64=1)
    shown = http.post("/v1/completions", json=ASKED).json()["system_fingerprint"]

    async def ask():
        async with server.client() as client:
            client.weights = await client.served()
            assert client.weights["judge"] == shown
            await client.complete("judge", request)
            client.weights["judge"] = "0" * 64
            with pytest.raises(RequestRefused, match="exchanged"):
                await client.complete("judge", request)

    asyncio.run(ask())


def test_beyond_this_machine_a_server_needs_a_key(tmp_path):
    config = world.inference_config(host="0.0.0.0")
    settings = tmp_path / "settings.json"
    server.settings_io.save(server.ServerSettings(inference=config), settings)
    command = [sys.executable, "-m", "scope_jax.inference.server"]
    bare = {k: v for k, v in os.environ.items() if not k.startswith("SCOPE_")}
    done = subprocess.run(
        [*command, "--config-file", settings], capture_output=True, text=True, env=bare
    )
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert "inference.host=0.0.0.0" in line and "SCOPE_API_KEY" in line


def test_with_a_key_all_routes_but_health_ask_for_it(tmp_path):
    config = world.inference_config(host="0.0.0.0")
    with world.Supervisor(config, tmp_path) as supervisor:
        with httpx.Client(base_url=supervisor.url, trust_env=False) as http:
            assert http.get("/health").status_code == 200
            paths = ("/ready", "/v1/models", "/stats", "/metrics", "/openapi.json")
            for shown in ({}, {"Authorization": "Bearer x"}, {"Authorization": "x"}):
                found = [http.get(path, headers=shown) for path in paths]
                found.append(http.post("/v1/completions", json=ASKED, headers=shown))
                assert {answer.status_code for answer in found} == {401}
                assert found[0].headers["WWW-Authenticate"] == "Bearer"
            shown = supervisor.secrets.headers()
            assert http.get("/ready", headers=shown).status_code == 200
            # A key is for asking; models are exchanged by the run alone.
            answer = http.post("/v1/models/a", json={"path": "/"}, headers=shown)
            assert answer.status_code == 403

        async def ask():
            async with supervisor.client() as client:
                assert await client.served() == {}

        asyncio.run(ask())


OURS, CONTROL = {"Authorization": "Bearer A"}, {"X-Scope-Control": "C"}
JUDGE, SEARCH = {"Authorization": "Bearer J"}, {"Authorization": "Bearer R"}


@pytest.mark.parametrize(
    ("ours", "judge", "search", "shown"),
    [
        ("http://ours", "http://j", "http://r/x", (OURS, JUDGE, SEARCH)),
        ("http://ours", "", "", (OURS, OURS, OURS)),
        # Behind a gateway, addresses begin alike.
        ("http://ours", "http://gw", "http://gw/search", (OURS, JUDGE, SEARCH)),
        ("http://gw", "http://gw/v1/models/j", "http://gw/s", (OURS, JUDGE, SEARCH)),
        ("http://gw/a", "http://gw", "http://gw", (OURS, JUDGE, SEARCH)),
    ],
)
def test_each_server_is_shown_its_own_key_alone(ours, judge, search, shown):
    given = Secrets(api="A", control="C", judge="J", retrieval="R")
    config = world.inference_config(judge_url=judge, retrieval_url=search)
    client, seen = world.Client(config, ours, given), []

    async def ask(url, body, seconds, headers):
        seen.append((url, headers))
        raise Failed(400, "no", None)

    client._http.ask = ask
    request = Request(ids=(1,), sampling=SamplingParams(), seed64=0)
    work = [client.complete("solver", request), client.complete("judge", request)]
    work += [client.search(["q"]), client.load_model("solver", "/x"), client.served()]

    async def each():
        for one in work:
            with pytest.raises(RequestRefused):
                await one

    asyncio.run(each())
    assert seen == [
        (f"{ours}/v1/completions", OURS),
        (f"{judge or ours}/v1/completions", shown[1]),
        (f"{search or ours}/retrieve", shown[2]),
        (f"{ours}/v1/models/solver", OURS | CONTROL),
        (f"{ours}/v1/models", OURS),
    ]


def test_secrets_come_from_variables_or_files(tmp_path):
    (tmp_path / "key").write_text(" abc\n")
    found = Secrets.from_environment({"SCOPE_API_KEY_FILE": str(tmp_path / "key")})
    assert found == Secrets(api="abc")
    left = found.environment({"SCOPE_JUDGE_API_KEY": "j", "PATH": "p"})
    assert left == {"PATH": "p", "SCOPE_API_KEY": "abc"}
    for bad in (
        {"SCOPE_API_KEY": ""},
        {"SCOPE_API_KEY": "a b"},
        {"SCOPE_API_KEY": "\u00e9"},
        {"SCOPE_API_KEY_FILE": str(tmp_path / "missing")},
    ):
        with pytest.raises(UserError, match="SCOPE_API_KEY"):
            Secrets.from_environment(bad)


def test_a_server_started_by_hand_says_where_its_secret_is(capsys):
    with serve.control_secret(Secrets(api="k")) as given:
        said = capsys.readouterr().out
        name = said.partition("SCOPE_CONTROL_SECRET_FILE=")[2].split()[0]
        assert Path(name).stat().st_mode & 0o777 == 0o600
        found = Secrets.from_environment({"SCOPE_CONTROL_SECRET_FILE": name})
        assert found.control == given.control and given.control not in said
    assert not Path(name).exists()
    with serve.control_secret(Secrets(control="mine")) as given:
        assert given.control == "mine"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("host", "own"), [("127.0.0.1", True), ("::1", True), ("localhost", True)]
    + [("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("node7", False)],
)  # fmt: skip
def test_what_is_this_machine_alone(host, own):
    assert access.is_loopback(host) == own
