"""The end of a run ends its inference process, whatever else goes wrong."""

from types import SimpleNamespace

import pytest

import configs
from scope_jax.selfplay.serving import Serving


def test_a_client_that_cannot_be_closed_leaves_no_process(tmp_path):
    follower = SimpleNamespace(is_leader=False)  # starts none of its own
    serving = Serving(configs.load("ci"), tmp_path, None, follower)
    ended = []
    serving.supervisor = SimpleNamespace(stop=lambda: ended.append("server"))

    class Client:
        async def close(self):
            raise OSError("broken connection")

    with pytest.raises(OSError, match="broken connection"), serving:
        serving._client = Client()
    assert ended == ["server"]
    with pytest.raises(RuntimeError, match="shutdown"):
        serving._starter.submit(print)
    with pytest.raises(RuntimeError, match="closed"):
        serving._runner.get_loop()
