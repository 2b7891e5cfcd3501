"""A few of the requests that no client means; more by hand, see ``fuzz_requests``."""

import asyncio

import fuzz_requests
import pytest


@pytest.mark.parametrize("route", ["retrieve", "v1"])
def test_no_request_is_a_servers_fault(server, route):
    counts, wrong, worst = asyncio.run(
        fuzz_requests.fuzz(server.url, route, 1, range(400))
    )
    assert wrong == []
    assert counts[200] > 40 and counts[400] > 40 and worst < 30
