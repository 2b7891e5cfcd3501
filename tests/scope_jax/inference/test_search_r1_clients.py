"""Search-R1's clients against our server: every field, every edge of their requests."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import inference_world as world
import pytest
from search_r1_clients import SENT_AGAIN, rollout_loop, search_tool

from retrieval.passages import Passage
from retrieval.search import Searcher, format_passages
from scope_jax.inference.answers import read_search
from scope_jax.inference.batcher import SearchBatcher
from scope_jax.inference.errors import ApiError

QUERIES = ["glassmaker of Aldwick", "river", "lamps in nine chapters", "river"]


@pytest.fixture(scope="module")
def found(folder):
    """What the searcher itself finds: passages by query."""
    searcher = Searcher(world.retrieval_config(folder), progress=False)
    return lambda queries, topk: [
        [passage for passage, _ in row] for row in searcher.search(queries, topk)
    ]


@pytest.fixture
def plain(server):
    """A client without keys, as theirs are."""
    options = {"timeout": 60, "trust_env": False}
    with httpx.Client(base_url=server.url, **options) as http:
        yield http


def retrieve(http, **body):
    answer = http.post("/retrieve", json=body)
    assert answer.headers["content-type"] == "application/json"
    return answer.status_code, answer.json()


def test_the_rollout_loop_gets_each_conversations_passages(plain, found):
    shown = rollout_loop(plain, QUERIES, topk=2)
    for text, passages in zip(shown, found(QUERIES, 2), strict=True):
        docs = [
            f"Doc {n}(Title: {p.title}) {p.text}" for n, p in enumerate(passages, 1)
        ]
        inside = "\n".join(docs)
        assert text == f"\n\n<information>{inside}</information>\n\n"


def test_the_tools_text_is_the_one_that_our_policy_is_shown(plain, found):
    text, count = search_tool(plain, QUERIES[:2], topk=3)
    assert text == "\n---\n".join(map(format_passages, found(QUERIES[:2], 3)))
    assert count == 6


def test_no_query_is_no_result(plain):
    assert rollout_loop(plain, []) == []
    assert search_tool(plain, []) == ("No search results found.", 0)
    for scores in (True, False):
        asked = {"queries": [], "topk": 3, "return_scores": scores}
        assert retrieve(plain, **asked) == (200, {"result": []})


# What models write between the tags of a search.
WRITTEN = [
    "",
    " \n ",
    "?!",
    "zyxw qwerty",
    "Café \U0001f600 \u4e2d\u6587",
    "\0",
    "\ufffd",
]
WRITTEN += ["<|im_end|>", "</information>", '"river"', "river\nriver", "river " * 400]


def test_whatever_a_model_writes_has_its_own_place_in_the_answer(plain, found):
    shown = rollout_loop(plain, WRITTEN)
    for query, text, passages in zip(WRITTEN, shown, found(WRITTEN, 3), strict=True):
        assert text.count("Doc ") == len(passages), query
        if not query.strip():
            assert text == "\n\n<information></information>\n\n"


@pytest.mark.parametrize(
    ("topk", "passages"),
    [({}, 3), ({"topk": None}, 3), ({"topk": 0}, 3), ({"topk": 1}, 1)]
    + [({"topk": 4}, 4), ({"topk": 1000}, 4)],
)
def test_topk_absent_null_and_zero_are_the_servers_own(plain, topk, passages):
    for scores in ({}, {"return_scores": True}):
        _, body = retrieve(plain, queries=["river", "Aldwick"], **topk, **scores)
        assert [len(row) for row in body["result"]] == [passages] * 2


def test_scores_are_around_the_document_or_not_there(plain):
    asked = {"queries": ["river"], "topk": 2}
    (bare,) = retrieve(plain, **asked)[1]["result"]
    for said in (False, None):
        assert retrieve(plain, **asked, return_scores=said)[1]["result"] == [bare]
    (scored,) = retrieve(plain, **asked, return_scores=True)[1]["result"]
    assert [set(one) for one in scored] == [{"document", "score"}] * 2
    assert [one["document"] for one in scored] == bare
    scores = [one["score"] for one in scored]
    assert all(type(score) is float for score in scores)
    assert scores == sorted(scores, reverse=True)
    rows = {
        str(i): {"id": str(i), "contents": f"{title}\n{text}"}
        for i, (title, text) in enumerate(world.PASSAGES)
    }
    assert all(document == rows[document["id"]] for document in bare)


@pytest.mark.parametrize(
    "body",
    [{"queries": "river"}, {"queries": ["river", None]}, {"queries": [["river"]]}]
    + [{}, {"queries": None}, {"query": "river"}, {"queries": ["a"], "topk": "3"}]
    + [{"queries": ["a"], "topk": -1}, {"queries": ["a"], "return_scores": "yes"}],
)
def test_what_they_never_send_is_refused_for_good(plain, body):
    status, answer = retrieve(plain, **body)
    assert status == 400 and status not in SENT_AGAIN
    assert answer["error"]["message"].count("\n") == 0 and "result" not in answer


def test_the_searches_of_a_whole_step_are_one_request(plain):
    """512 prompts with 5 rollouts each, as in Search-R1's GRPO script."""
    queries = [f"the river that passes town number {i} of {i}" for i in range(2560)]
    assert len(rollout_loop(plain, queries)) == 2560


def test_the_tools_120_workers_at_once(server, found):
    def ask(number):
        with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as http:
            return search_tool(http, [QUERIES[number % 4]], topk=1)

    with ThreadPoolExecutor(120) as workers:
        answers = list(workers.map(ask, range(240)))
    expected = [(format_passages(row), 1) for row in found(QUERIES, 1)]
    assert answers == expected * 60


def test_a_full_queue_is_what_they_send_again():
    going, go_on = threading.Event(), threading.Event()

    def slow(queries, topk):
        going.set()
        go_on.wait(30)
        return [[query] * topk for query in queries]

    async def run():
        search = SearchBatcher(slow, batch=1, max_queue=1)
        first = asyncio.create_task(search(["a"], 1))
        await asyncio.to_thread(going.wait, 30)
        second = asyncio.create_task(search(["b"], 2))
        await asyncio.sleep(0)
        with pytest.raises(ApiError, match="1 searches are waiting") as refused:
            await search(["c"], 1)
        go_on.set()
        return refused.value.status, await first, await second

    status, first, second = asyncio.run(run())
    assert status in SENT_AGAIN
    assert (first, second) == ([["a"]], [["b", "b"]])


def test_what_is_found_does_not_depend_on_what_others_ask_for():
    """Nor on when: an approximate index finds others if it is asked for more."""
    going, go_on, calls = threading.Event(), threading.Event(), []

    def approximate(queries, topk):
        going.set()
        go_on.wait(30)
        calls.append((queries, topk))
        return [[f"{query} of {topk}"] * topk for query in queries]

    async def run():
        search = SearchBatcher(approximate, batch=8, max_queue=8)
        first = asyncio.create_task(search(["a"], 1))
        await asyncio.to_thread(going.wait, 30)
        asked = [(["b"], 2), (["c"], 1), (["d", "e"], 2)]
        waiting = [asyncio.create_task(search(*each)) for each in asked]
        await asyncio.sleep(0)
        go_on.set()
        return await asyncio.gather(first, *waiting)

    a, b, c, (d, e) = asyncio.run(run())
    assert (a, b, c) == ([["a of 1"]], [["b of 2"] * 2], [["c of 1"]])
    assert (d, e) == (["d of 2"] * 2, ["e of 2"] * 2)
    assert calls == [(["a"], 1), (["c"], 1), (["b", "d", "e"], 2)]


@pytest.mark.parametrize(
    "document",
    [
        {"id": "12", "contents": '"Tarn"\nA river.'},
        {"id": 12, "contents": '"Tarn"\nA river.'},
        # A BM25 index that holds its documents: no id, the parts of contents beside it.
        {"title": "Tarn", "text": "A river.", "contents": '"Tarn"\nA river.'},
    ],
)
def test_our_client_reads_what_their_servers_answer(document):
    body = {"result": [[{"document": document, "score": 7.5}], []]}
    (((passage, score),), nothing) = read_search(body, 2)
    own = Passage(id=str(document.get("id", "")), title='"Tarn"', text="A river.")
    assert (passage, score, nothing) == (own, 7.5, [])
