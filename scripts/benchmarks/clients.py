"""Many clients at once on the real server, beside its engine alone.

Both play the same requests, on the same cores, in turns: the engine in this process,
the server in its own, its clients in a third. Besides tokens per second: how long
/health takes meanwhile, and with ``--hostile`` also while somebody sends what is as
long and as deep as may be.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from benchmarks import harness, peer_clients, shapes
from models import hf
from rl.engine.config import EngineConfig
from rl.engine.engine import Engine
from rl.records import Request, SamplingParams
from scope_jax.inference import InferenceConfig, ModelSource
from scope_jax.inference.supervisor import Supervisor
from scope_jax.small_world import assets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument(
        "--shape",
        choices=("demo", "qwen3_31m"),
        default="qwen3_31m",
        help="the small world's model, or 31.5 million random parameters",
    )
    parser.add_argument("--clients", type=int, default=256)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--length", type=int, default=96, help="tokens of a prompt")
    parser.add_argument("--new", type=int, default=32, help="tokens of a completion")
    parser.add_argument("--hostile", type=float, default=0.0, metavar="SECONDS")


def run(args: argparse.Namespace) -> harness.Result:
    """Sampled tokens per second of server and engine."""
    engine_config = EngineConfig(slots=args.slots, max_length=256, prefill_rows=8)
    config = InferenceConfig(engine=engine_config)
    notes: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = _model(args.shape, folder / "model")
        decoder, params = hf.load(model)
        tokenizer = hf.load_tokenizer(model)
        server = Supervisor(
            config, folder / "run", models={"judge": ModelSource(path=str(model))}
        )
        server.start()
        stack.callback(server.stop)
        engine = Engine(params, decoder, tokenizer, engine_config)
        engine.compile()
        vocab = min(len(tokenizer.get_vocab()), decoder.vocab_size)
        work = {"count": args.clients, "length": args.length, "vocab": vocab}
        asked = {"url": server.url, "new": args.new, "every": 0.01} | work

        def peer(task: str, **more: Any) -> harness.Peer:
            errors = stack.enter_context(tempfile.TemporaryFile("w+"))
            settings = json.dumps({"task": task} | asked | more)
            command = [sys.executable, peer_clients.__file__, settings]
            return stack.enter_context(harness.Peer(task, command, errors))

        clients, health = peer("clients"), peer("health")
        time.sleep(1)
        notes["/health, idle"] = _spread(health.turn()["waits"])
        players = _Players(engine, server, clients, health, work, args.new)
        seconds = players.take_turns(args.repeats)
        notes |= _overheads(seconds, players.kept)
        notes["/health, under load"] = _spread(players.waits)
        if args.hostile:
            limits = {"bytes": config.body_bytes, "values": config.body_values}
            notes |= _hostile(peer, health, clients, limits, args.hostile)
    return harness.Result(
        what=f"clients: {args.clients} at once, {args.length} + {args.new} tokens each,"
        f" {args.slots} slots, {args.shape}, sampled tokens",
        unit="tokens",
        amount=args.clients * args.new,
        seconds=seconds,
        notes=notes,
    )


@dataclass
class _Players:
    """The engine and the server, who play the same requests in turns.

    Attributes:
      kept: what CPU time each turn took, by whose it was.
      waits: seconds of /health while the server played.
    """

    engine: Engine
    server: Supervisor
    clients: harness.Peer
    health: harness.Peer
    work: dict[str, int]
    new: int
    kept: dict[str, list[float]] = field(default_factory=dict)
    waits: list[float] = field(default_factory=list)

    def take_turns(self, repeats: int) -> dict[str, list[float]]:
        """Seconds of each turn; a first one of both is not counted."""
        seconds: dict[str, list[float]] = {"ours": [], "engine alone": []}
        for turn in range(repeats + 1):
            taken = {"engine alone": self._alone(turn), "ours": self._served()}
            if not turn:
                self.kept.clear()
                self.waits.clear()
                continue
            for name, value in taken.items():
                seconds[name].append(value)
        return seconds

    def _alone(self, turn: int) -> float:
        cpu = time.process_time()
        seconds = _alone(self.engine, turn, self.work, self.new)
        self._note("engine's CPU", time.process_time() - cpu)
        return seconds

    def _served(self) -> float:
        self.health.turn()
        cpu = _cpu_seconds(self.server)
        said = self.clients.turn()
        self._note("server's CPU", _cpu_seconds(self.server) - cpu)
        self._note("clients' CPU", said["cpu"])
        self.waits.extend(self.health.turn()["waits"])
        assert said["tokens"] == self.work["count"] * self.new
        return said["seconds"]

    def _note(self, name: str, value: float) -> None:
        self.kept.setdefault(name, []).append(value)


def _model(shape: str, folder: Path) -> Path:
    """The small world's model, or one of a shape with its tokenizer."""
    if shape == "demo":
        return Path(assets.model_path())
    config = shapes.SHAPES[shape]
    params = shapes.random_params(config, jnp.float32)
    hf.save(folder, config, params, tokenizer=hf.load_tokenizer(assets.model_path()))
    return folder


def _alone(engine: Engine, turn: int, work: dict[str, int], new: int) -> float:
    """Seconds in which the engine alone plays a turn's requests."""
    requests = [
        Request(ids=tuple(ids), sampling=SamplingParams(max_new_tokens=new), seed64=i)
        for i, ids in enumerate(
            peer_clients.prompts(turn, work["count"], work["length"], work["vocab"])
        )
    ]
    start = time.perf_counter()
    done = engine.generate(requests)
    seconds = time.perf_counter() - start
    assert all(len(one.ids) == new for one in done)
    return seconds


def _overheads(
    seconds: dict[str, list[float]], kept: dict[str, list[float]]
) -> dict[str, Any]:
    """What the server costs, in time and in work."""
    pairs = list(zip(seconds["ours"], seconds["engine alone"], strict=True))
    cores = os.cpu_count() or 1
    spent = zip(seconds["ours"], kept["clients' CPU"], strict=True)
    less = [took - cpu / cores for took, cpu in spent]
    bare = seconds["engine alone"]
    work = zip(kept["server's CPU"], kept["engine's CPU"], strict=True)
    found = {
        "overhead in time": [a / b - 1 for a, b in pairs],
        "overhead without the clients' CPU time": [
            a / b - 1 for a, b in zip(less, bare, strict=True)
        ],
        "overhead in CPU time": [a / b - 1 for a, b in work],
    }
    shown = {name: _percent(values) for name, values in found.items()}
    return shown | {
        name: f"{statistics.median(v):.2f} s a turn" for name, v in kept.items()
    }


def _hostile(
    peer: Callable[..., harness.Peer],
    health: harness.Peer,
    clients: harness.Peer,
    limits: dict[str, int],
    seconds: float,
) -> dict[str, Any]:
    """/health while somebody sends each kind of hostile body, and all under load."""
    notes = {}
    for kind in peer_clients.hostile_bodies(1000, 1000):
        with peer("hostile", kinds=[kind], **limits) as one:
            health.turn()
            time.sleep(seconds)
            answers = ", ".join(
                f"{name.rpartition(' ')[2]} x {count}"
                for name, count in one.turn()["statuses"].items()
            )
            notes[f"/health, hostile: {kind} ({answers})"] = _spread(
                health.turn()["waits"]
            )
    with peer("hostile", **limits) as one:
        health.turn()
        clients.turn()
        notes["/health, hostile and under load"] = _spread(health.turn()["waits"])
        notes["answers to hostile input"] = one.turn()["statuses"]
    return notes


def _cpu_seconds(server: Supervisor) -> float:
    """User and system time that the server's process has had (Linux)."""
    assert server._process is not None
    stat = Path(f"/proc/{server._process.pid}/stat").read_text()
    user, system = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _spread(waits: Sequence[float]) -> str:
    ordered = sorted(1000 * wait for wait in waits)
    if not ordered:
        return "no answer"
    at = [ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.99, 1)]
    return f"p50 {at[0]:.1f}, p99 {at[1]:.1f}, longest {at[2]:.1f} ms of {len(ordered)}"


def _percent(values: Sequence[float]) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.1%} ({low:.1%} to {high:.1%})"
