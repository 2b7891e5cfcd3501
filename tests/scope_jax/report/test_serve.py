"""The server: reads a run's folder as it is asked, and answers this machine only."""

import socket
import time

import pytest
from starlette.testclient import TestClient

from models.errors import UserError
from scope_jax.report import index as report_index
from scope_jax.report import page, serve
from scope_jax.report.index import Index
from scope_jax.system.files import cache_dir, write_json_lines
from tests.scope_jax.report.run_folders import (
    HOSTILE,
    embedded,
    make,
    solver_record,
    task_record,
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SCOPE_JAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def run(tmp_path):
    return make(tmp_path / "run", said=f"word {HOSTILE}")


@pytest.fixture
def http(run):
    return TestClient(serve.app([run]), base_url="http://127.0.0.1:8080")


def all_rows(http):
    found = []
    while True:
        answer = http.get(f"/rows?of=0&from={len(found)}").json()
        found += answer["rows"]
        if answer["complete"]:
            return found, answer["problems"]


def test_it_gives_the_rows_and_records_that_the_page_in_a_file_has(run, http):
    about, records = embedded(page.build(run))
    rows, problems = all_rows(http)
    assert rows == about["rollouts"]["rows"] and problems == []
    for row, record in records.items():
        assert http.get(f"/rollout?of=0&row={row}").json() == record


def test_the_page_asks_only_its_own_server(http):
    answer = http.get("/")
    about, records = embedded(answer.text)
    assert about["rollouts"]["served"] == 0 and records == {}
    assert "connect-src 'self'" in answer.text
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["/", "/rows?of=0", "/rollout?of=0&row=0", "/search?of=0&q=a"]
)
def test_another_host_or_method_gets_nothing(http, path):
    all_rows(http)  # and so all is read
    assert http.get(path).status_code == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil:8080", ""):
        assert http.get(path, headers={"host": host}).status_code == 400
    assert http.get(path, headers={"host": "localhost:8080"}).status_code == 200
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert http.request(method, path).status_code == 405


def test_it_reads_nothing_but_the_run(http):
    for path in ("/../config.json", "/config.json", "/rollouts", "/docs"):
        assert http.get(path).status_code == 404
    for row in ("99999", "-1", "x", "", "9" * 400):
        assert http.get(f"/rollout?of=0&row={row}").status_code in (200, 404)


@pytest.mark.parametrize(
    "query, count",
    [
        *(("task 1", 3 * 4 + 1), ("TASK 1 of step 2", 4), ("no such words", 0)),
        *(("شكرا", 24), ("gnp.exe", 24), ("\ud83d", 24), ("reward 1.25", 6)),
        ('</script><script>window.hacked = 1</script><img src=x onerror="', 24),
    ],
)
def test_search_finds_text_in_everything_that_was_said(run, query, count):
    index = Index([run])
    index.refresh()
    index.wait()
    found = index.search(query)
    assert len(found) == count == len(set(found))
    for row in found:
        assert query.lower() in report_index.rows.text(index.record(row))


def test_search_takes_each_record_by_itself(run):
    file = run / "rollouts/iter_1/tasks/step_0001.jsonl"
    file.write_text('{"uid": "a", "x": "eins"}\n{"uid": "b", "x": "zwei\\u0000drei"}\n')
    index = Index([run])
    index.refresh()
    index.wait()
    assert index.search("eins") == [0]
    assert index.search("zwei") == index.search("zwei\0drei") == [1]


def test_what_comes_later_is_read_later_and_a_file_that_changed_again(run):
    index = Index([run])
    index.refresh()
    index.wait()
    assert len(index.rows) == 43
    folder = run / "rollouts/iter_1/solver"
    write_json_lines(folder / "step_0004.jsonl", [solver_record(4, 0, 0)])
    index.refresh()
    index.wait()
    assert len(index.rows) == 44 and index.rows[-1][1] == "1/solver/4/0/0"
    tasks = run / "rollouts/iter_1/tasks/step_0001.jsonl"
    write_json_lines(tasks, [task_record(7, "kept", 0.4)])
    index.refresh()
    index.wait()
    assert len(index.rows) == 42 and index.rows[0][1] == "1/tasks/1/7/0"
    assert index.record(0)["uid"] == "1/tasks/1/7/0"


def test_a_page_of_a_run_that_has_changed_gets_no_other_rollout(run, http):
    _, _ = all_rows(http)
    tasks = run / "rollouts/iter_1/tasks/step_0001.jsonl"
    write_json_lines(tasks, [task_record(7, "kept", 0.4)])
    served = embedded(http.get("/").text)[0]["rollouts"]["served"]
    assert served == 1
    for path in ("/rows?from=0", "/rollout?row=0", "/search?q=task"):
        assert http.get(f"{path}&of=1").status_code == 200
        stale = http.get(f"{path}&of=0")
        assert (stale.status_code, stale.text) == (409, serve.CHANGED)


def test_what_is_new_is_read_though_the_last_reader_has_just_ended(run, monkeypatch):
    read = Index._read

    def linger(self, new):
        read(self, new)
        time.sleep(0.3)

    monkeypatch.setattr(Index, "_read", linger)
    index = Index([run])
    index.refresh()
    while not index.complete:
        time.sleep(0.01)
    write_json_lines(
        run / "rollouts/iter_1/tasks/step_0001.jsonl", [task_record(7, "kept", 0.4)]
    )
    index.refresh()
    assert index.generation == 1


def test_blank_lines_move_no_rollout(run):
    file = run / "rollouts/iter_1/tasks/step_0001.jsonl"
    file.write_text("\n\n" + file.read_text().replace("\n", "\n\n"))
    index = Index([run])
    index.refresh()
    index.wait()
    assert [index.record(i)["uid"] for i in range(3)] == [r[1] for r in index.rows[:3]]


def test_the_index_on_disk_may_be_deleted_and_is_used_if_it_is_there(run, monkeypatch):
    index = Index([run])
    index.refresh()
    index.wait()
    kept = list(cache_dir().rglob("*.text"))
    assert len(kept) == 6
    for file in kept:
        file.unlink()
    assert len(index.search("task 1 of step 2")) == 4  # made again
    index = Index([run])
    index.refresh()
    index.wait()
    monkeypatch.setattr(report_index.stored, "each", None)
    again = Index([run])
    again.refresh()
    again.wait()
    assert again.rows == index.rows and again.complete


def test_a_damaged_run_opens_with_what_is_readable(run):
    (run / "rollouts/iter_1/solver/step_0002.jsonl").write_bytes(b"\xff\n{}\n")
    (run / "manifest.json").write_text("[")
    http = TestClient(serve.app([run]), base_url="http://localhost")
    rows, problems = all_rows(http)
    assert len(rows) == 43 - 8
    assert problems == [
        "rollouts/iter_1/solver/step_0002.jsonl: 2 of 2 lines are no rollouts"
    ]
    assert "manifest.json" in embedded(http.get("/").text)[0]["problems"][0]


def test_a_port_in_use_is_one_line(run):
    with socket.socket() as taken:
        taken.bind((serve.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: Address already in use"):
            serve.serve([run], port)


def test_a_folder_that_is_no_run_is_refused_before_anything_is_served(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json"):
        serve.app([tmp_path])


def test_no_place_for_an_index_is_one_line(run, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SCOPE_JAX_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="SCOPE_JAX_CACHE"):
        serve.app([run])


def test_a_search_for_nothing_ends_and_finds_all(http):
    rows, _ = all_rows(http)
    assert http.get("/search?of=0&q=").json() == list(range(len(rows)))


def test_a_cache_that_cannot_be_written_is_a_problem_and_no_wait_for_ever(
    run, monkeypatch
):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    index = Index([run])
    index.refresh()
    index.wait()
    assert index.complete and index.rows == []
    assert all("No space left" in problem for problem in index.problems)
    assert index.problems


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_is_none_is_refused(run, port):
    with pytest.raises(UserError, match=f"--port {port}: name one up to 65535"):
        serve.serve([run], port)
