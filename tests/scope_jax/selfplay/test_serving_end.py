"""The inference process as a run sees it: what a judge says, and how it all ends."""

import asyncio
from types import SimpleNamespace

import pytest

import configs
from rl.records import Completion
from scope_jax.method import judge
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


@pytest.mark.parametrize("opening", ["", "<think>\n"])
def test_a_judge_whose_template_opens_its_thinking_is_read_behind_it(tmp_path, opening):
    renderer = SimpleNamespace(
        opening_of=lambda prompt: opening, prompt_ids=lambda messages: [1], stop_ids=()
    )
    follower = SimpleNamespace(is_leader=False)
    serving = Serving(configs.load("ci"), tmp_path, renderer, follower)
    serving.supervisor = SimpleNamespace(stop=lambda: None)
    said = ["1? </think><score>0</score>", "<score>1</score> I was cut", ""]

    class Client:
        async def complete(self, model, request):
            return Completion(
                ids=(2,), logprobs=(-1.0,), text=said.pop(0), finish_reason="stop"
            )

        async def close(self):
            pass

    async def ask():
        return await serving.judge([], temperature=0.0, max_tokens=9, seed64=0)

    with serving:
        serving._client = Client()
        found = [asyncio.run(ask()) for _ in range(3)]
    grades = [judge.parse_grade(text) for text in found]
    assert grades == [0, None if opening else 1, None]
    assert found[2] == ""
