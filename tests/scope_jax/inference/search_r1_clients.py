"""What the public clients of Search-R1's wire format send, and what they expect.

Two of them, in our own words: Search-R1's rollout loop and verl's search tool (commits
a14dc3a and 409d5ed of their repositories). Both post ``queries``, ``topk`` and
``return_scores: true`` and take ``["result"]`` of the answer without a look at anything
else; they differ in headers, in what they send again, and in the text that they make.
"""

from collections.abc import Callable, Sequence
from typing import Any

import httpx

SENT_AGAIN = frozenset({500, 502, 503, 504})
"""Statuses after which verl's tool asks again, up to 10 times; after any other failure,
and in Search-R1 after each, the model reads an error, or the run ends."""


def rollout_loop(
    http: httpx.Client, queries: Sequence[str], topk: int = 3
) -> list[str]:
    """Search-R1: what each conversation that searched is shown.

    The queries of all conversations of a batch are one request; where none searched, it
    is sent with no queries all the same.
    """
    found = http.post("/retrieve", json=_body(queries, topk)).json()["result"]
    texts = [_shown(passages, "Doc {}(Title: {}) {}\n") for passages in found]
    assert len(texts) == len(queries)
    return [f"\n\n<information>{text.strip()}</information>\n\n" for text in texts]


def search_tool(
    http: httpx.Client,
    queries: Sequence[str],
    topk: int = 3,
    wait: Callable[[float], None] = lambda seconds: None,
) -> tuple[str, int]:
    """verl: the tool's text for one conversation, and how many passages it has.

    Raises:
      httpx.HTTPStatusError: the status of the last answer, after all attempts.
    """
    accept = {"Content-Type": "application/json", "Accept": "application/json"}
    for attempt in range(1, 11):
        answer = http.post("/retrieve", json=_body(queries, topk), headers=accept)
        if answer.status_code not in SENT_AGAIN:
            break
        wait(attempt)
    answer.raise_for_status()
    found = answer.json().get("result", [])
    texts = [_shown(one, "Doc {} (Title: {})\n{}\n\n").strip() for one in found]
    return "\n---\n".join(texts) or "No search results found.", sum(map(len, found))


def _body(queries: Sequence[str], topk: int) -> dict[str, Any]:
    return {"queries": list(queries), "topk": topk, "return_scores": True}


def _shown(passages: Sequence[dict[str, Any]], form: str) -> str:
    """Both split the contents at its first line."""
    text = ""
    for number, passage in enumerate(passages, 1):
        title, *lines = passage["document"]["contents"].split("\n")
        text += form.format(number, title, "\n".join(lines))
    return text
