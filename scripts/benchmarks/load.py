"""Weights from a model folder into place, beside transformers."""

import argparse
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import harness, peer_transformers
from benchmarks.peer_transformers import peak_of
from models import hf

PEERS = {"transformers": peer_transformers.__file__}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--model", required=True, help="model folder or hub name")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])


def run(args: argparse.Namespace) -> harness.Result:
    """Bytes of parameters per second, all of them in memory at the end."""
    folder = hf.resolve(args.model)
    notes: dict[str, Any] = {}

    def load() -> tuple[float, int]:
        seconds, params = harness.timed(lambda: hf.load(folder, dtype=args.dtype)[1])
        return seconds, sum(leaf.nbytes for leaf in jax.tree.leaves(params))

    jnp.zeros(1).block_until_ready()  # the device is there before the first turn
    size = 0

    def ours() -> float:
        nonlocal size
        (seconds, size), peak = peak_of(load)
        if peak:  # of the first turn: later ones find its memory still resident
            said = f"{peak / size:.2f} of the parameters' size"
            notes.setdefault("host memory, ours", said)
        return seconds

    settings = {"task": "load", "model": str(folder), "dtype": args.dtype}
    with harness.peers(args.peer, PEERS, settings) as peers:
        seconds = harness.take_turns(ours, peers, args.repeats)
        for peer in peers:
            said = peer.turn()
            notes[peer.name] = peer.ready
            if said["peak"]:
                share = f"{said['peak'] / size:.2f} of the parameters' size"
                notes[f"host memory, {peer.name}"] = share
    return harness.Result(
        what=f"load: {size / 1e9:.2f} GB of parameters in {args.dtype}",
        unit="GB",
        amount=size / 1e9,
        seconds=seconds,
        notes=notes,
    )
