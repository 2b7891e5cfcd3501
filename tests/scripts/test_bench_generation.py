"""The benchmarks' work is always the same, and sharing saves what it promises."""

import argparse

import jax
import jax.numpy as jnp
import pytest
from safetensors.numpy import load_file

from benchmarks import gaps, generation, peer_llama, shapes, workloads
from benchmarks.workloads import Conversation, Turn
from models import hf


def test_the_work_is_what_its_description_says():
    work = workloads.multiturn(1000, groups=2)
    assert work == workloads.multiturn(1000, groups=2)
    assert len(work) == 16 and len({one.prompt for one in work}) == 2
    assert {len(one.prompt) for one in work} == {512}
    turns = [turn for one in work for turn in one.turns]
    assert len(turns) == 80 and {len(turn.result) for turn in turns} == {0, 150}
    assert 32 <= min(t.new for t in turns) < 60 < 230 < max(t.new for t in turns) <= 256
    assert workloads.useful_tokens(work) == sum(turn.new for turn in turns)


def test_a_judge_computes_less_than_a_third_of_its_prompts(tiny_config, tiny_params):
    parser = argparse.ArgumentParser()
    generation.add_arguments(parser)
    args = parser.parse_args([])
    prefilled = {}
    for shared in (True, False):
        work = workloads.judge(tiny_config.vocab_size, tasks=1, shared=shared)
        engine = generation.make_engine(tiny_params, tiny_config, work, 8, args)
        done = generation.play(engine, work)
        prefilled[shared] = done["perf/prefill_tokens"]
        whole = sum(len(one.prompt) for one in work)
        assert done["perf/prefill_tokens"] + done["perf/cached_tokens"] == whole
    assert prefilled[False] == 40 * 596
    assert prefilled[True] <= 0.3 * prefilled[False]


def test_the_idle_share_is_what_no_event_covers():
    assert gaps.idle_share([(20, 30), (2, 5), (0, 10)]) == pytest.approx(10 / 30)
    assert gaps.idle_share([(0, 4), (4, 9)]) == 0
    assert gaps.idle_share([]) is None


def test_a_device_that_waits_for_the_host_shows_gaps():
    work = jax.jit(lambda x: x @ x)
    x = jnp.ones((64, 64))
    work(x).block_until_ready()

    def now_and_then():
        for _ in range(3):
            work(x).block_until_ready()
            sum(range(1_000_000))  # the host is busy, the device is not

    assert 0.5 < gaps.host_gaps(now_and_then) < 1


def test_a_conversation_is_played_as_llama_cpp_would():
    [one] = workloads.as_json(
        [Conversation((1, 2, 3), (Turn(2, (7, 8)), Turn(1, (9,))))]
    )
    player = peer_llama.Player(one)
    assert list(player.queue) == [1, 2, 3] and player.prompt
    player.queue.clear()
    assert not player.take(4)
    assert list(player.queue) == [4] and not player.prompt
    player.queue.clear()
    # The turn's last token is computed with the result, as part of the next prompt.
    assert not player.take(5)
    assert list(player.queue) == [5, 7, 8] and player.prompt
    assert player.take(6)


def test_every_tensor_of_a_folder_has_a_name_in_a_gguf_file(tmp_path):
    hf.save(tmp_path, shapes.TOY, shapes.random_params(shapes.TOY, "float32"))
    tensors = load_file(tmp_path / "model.safetensors")
    names = set(map(peer_llama.renamed, tensors))
    assert {"token_embd.weight", "output_norm.weight"} < names
    assert "blk.1.attn_k_norm.weight" in names and "blk.0.ffn_down.weight" in names
    assert len(names) == 2 + shapes.TOY.num_layers * 11
