"""Forward pass over whole rows, all logits, beside transformers."""

import argparse
import json
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness, peer_transformers
from models import forward, hf
from models.config import DecoderConfig
from models.hf.published import PUBLISHED

# The shape of Qwen2.5-0.5B, for random weights, with what transformers needs to know.
SHAPE = PUBLISHED["Qwen/Qwen2.5-0.5B-Instruct"] | {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
}
PEERS = {"transformers": peer_transformers.__file__}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument(
        "--model", help="model folder; default: random weights in Qwen2.5-0.5B's shape"
    )
    parser.add_argument("--rows", type=int, default=1, help="rows of a batch")
    parser.add_argument("--length", type=int, default=512, help="tokens of a row")


def run(args: argparse.Namespace) -> harness.Result:
    """Tokens per second through the whole model, float32."""
    with tempfile.TemporaryDirectory() as folder:
        if args.model is None:
            (Path(folder) / "config.json").write_text(json.dumps(SHAPE))
            config = DecoderConfig.from_hf(SHAPE)
            init = jax.jit(forward.init, static_argnums=0)
            params = init(config, jax.random.key(0))
        else:
            config, params = hf.load(args.model, dtype=jnp.float32)
        shape = (args.rows, args.length)
        tokens = np.random.default_rng(0).integers(0, config.vocab_size, shape)
        program = jax.jit(forward.forward, static_argnums=1)
        program = program.lower(params, config, tokens).compile()
        found = {}

        def ours() -> float:
            seconds, logits = harness.timed(lambda: program(params, tokens))
            found["best"] = np.asarray(jnp.argmax(logits, -1))
            return seconds

        settings = {
            "task": "forward",
            "model": str(args.model or folder),
            "random": args.model is None,
            "tokens": tokens.tolist(),
        }
        with harness.peers(args.peer, PEERS, settings) as peers:
            seconds = harness.take_turns(ours, peers, args.repeats)
            notes = {peer.name: peer.ready for peer in peers}
            if args.model is not None:
                for peer in peers:
                    same = np.asarray(peer.turn()["best"]) == found["best"]
                    notes[f"same next token as {peer.name}"] = float(same.mean())
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return harness.Result(
        what=f"forward: {args.rows} x {args.length} tokens, {config.model_type} of "
        f"{count / 1e6:,.0f} M parameters, float32, all logits",
        unit="tokens",
        amount=tokens.size,
        seconds=seconds,
        notes=notes,
    )
