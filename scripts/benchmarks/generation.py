"""Conversations on our engine, in turns with the peers that generate."""

import argparse
import time
from collections.abc import Sequence
from typing import Any, get_args

import jax

from benchmarks import harness, peer_llama, peer_transformers, peer_tunix
from benchmarks.shapes import Ids
from benchmarks.workloads import (
    Conversation,
    as_json,
    first_turns,
    longest,
    useful_tokens,
)
from models.cached_backends import CachedBackend
from models.config import DecoderConfig
from models.precision import Dtype
from rl.engine.config import EngineConfig
from rl.engine.engine import Engine
from rl.engine.sampling import seed64
from rl.records import Request, SamplingParams

PEERS = {
    "tunix": peer_tunix.__file__,
    "transformers": peer_transformers.__file__,
    "llama": peer_llama.__file__,
    "llama-q8": peer_llama.__file__,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the benchmarks that generate."""
    parser.add_argument("--decode-steps", type=int, default=8)
    parser.add_argument("--prefill-rows", type=int, default=2)
    parser.add_argument("--prefill-chunk", type=int, default=64)
    parser.add_argument("--page-size", type=int, default=128)
    parser.add_argument(
        "--attention",
        choices=get_args(CachedBackend),
        default="auto",
        help="backend of attention over the cache",
    )
    parser.add_argument(
        "--dtype",
        choices=get_args(Dtype),
        default="auto",
        help="of our weights, cache and arithmetic",
    )
    parser.add_argument(
        "--checkpoint",
        choices=get_args(Dtype)[1:],
        help="of the weights that peers load, and so of what transformers computes in; "
        "default: as ours",
    )
    parser.add_argument(
        "--peer-batch", type=int, default=8, help="conversations a peer plays together"
    )


def make_engine(
    params: Any,
    config: DecoderConfig,
    work: Sequence[Conversation],
    slots: int,
    args: argparse.Namespace,
) -> Engine:
    """An engine that the conversations fit into, compiled."""
    sizes = EngineConfig(
        slots=slots,
        max_length=longest(work) + 1,
        decode_steps=args.decode_steps,
        prefill_rows=args.prefill_rows,
        prefill_chunk=args.prefill_chunk,
        page_size=args.page_size,
        attention=args.attention,
    )
    engine = Engine(params, config, Ids(config.vocab_size), sizes)
    engine.compile()
    return engine


def play(engine: Engine, work: Sequence[Conversation]) -> dict[str, float]:
    """Plays all conversations; each continues as soon as its turn is done.

    Returns:
      seconds, and what the engine counted meanwhile (differences of ``stats``).
    """
    before = engine.stats()
    open_turns = {}
    started = time.perf_counter()

    def ask(number: int, turn: int, ids: tuple[int, ...]) -> None:
        new = work[number].turns[turn].new
        request = Request(
            ids=ids,
            sampling=SamplingParams(max_new_tokens=new),
            seed64=seed64("benchmark", number, turn),
        )
        open_turns[engine.submit(request)] = number, turn, ids

    for number, one in enumerate(work):
        ask(number, 0, one.prompt)
    sampled = 0
    while open_turns:
        for id, completion in engine.poll():
            number, turn, ids = open_turns.pop(id)
            sampled += len(completion.ids)
            turns = work[number].turns
            if turn + 1 < len(turns):
                ask(number, turn + 1, ids + completion.ids + turns[turn].result)
    seconds = time.perf_counter() - started
    if sampled != useful_tokens(work):
        raise RuntimeError(f"{sampled} tokens sampled of {useful_tokens(work)}")
    after = engine.stats()
    return {"seconds": seconds} | {name: after[name] - before[name] for name in after}


def requests(work: Sequence[Conversation]) -> list[Request]:
    """The first turn of each conversation."""
    return [
        Request(
            ids=one.prompt,
            sampling=SamplingParams(max_new_tokens=one.turns[0].new),
            seed64=seed64("benchmark", number, 0),
        )
        for number, one in enumerate(work)
    ]


def replay(
    engine: Engine, params: Any, work: Sequence[Conversation], repeats: int
) -> list[dict[str, float]]:
    """Plays again and again, each time with nothing of the work in the cache."""
    turns = []
    for _ in range(repeats):
        engine.set_params(params)  # forgets what it has computed
        turns.append(play(engine, work))
    return turns


def take_turns(
    engine: Engine,
    params: Any,
    work: Sequence[Conversation],
    args: argparse.Namespace,
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each turn of ours and of every peer; notes on prompts and versions.

    A peer's warm-up is the first turns of one batch only: a whole turn takes minutes.
    """
    warm = first_turns(work[: args.peer_batch])
    play(engine, warm)
    seconds: dict[str, list[float]] = {"ours": []}
    notes: dict[str, Any] = {}
    plan = {"conversations": as_json(work), "batch": args.peer_batch}
    plan["warm"] = as_json(warm)
    given = jax.tree.map(lambda x: x.astype(args.checkpoint or x.dtype), params)
    with harness.handed_over(engine.sampler.config, given, plan) as settings:
        settings["task"] = "generate"
        with harness.peers(args.peer, PEERS, settings) as peers:
            notes |= {peer.name: peer.ready for peer in peers}
            for _ in range(args.repeats):
                [ours] = replay(engine, params, work, 1)
                answers = {peer.name: peer.turn() for peer in peers}
                answers["ours"] = ours | {"prefilled": ours["perf/prefill_tokens"]}
                for who, answer in answers.items():
                    seconds.setdefault(who, []).append(answer["seconds"])
                    notes[f"prompt tokens computed, {who}"] = answer["prefilled"]
    notes["prompt tokens found computed, ours"] = ours["perf/cached_tokens"]
    share = ours["perf/prefill_seconds"] / ours["seconds"]
    notes["share of our time in prefill"] = round(share, 3)
    return seconds, notes
