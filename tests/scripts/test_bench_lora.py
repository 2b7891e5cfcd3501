"""bench.py lora: what it counts, at a size that says nothing of speed."""

import argparse
from dataclasses import replace

import jax
import pytest

from benchmarks import lora as bench_lora
from benchmarks import shapes
from models import forward, lora
from models.lora import LoraConfig

WHOLE = replace(shapes.TOY, num_layers=2)


def test_adapters_take_less_memory_and_serve_together(monkeypatch):
    monkeypatch.setattr(bench_lora, "WHOLE", WHOLE)
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=1)
    bench_lora.add_arguments(parser)
    options = "--layers 1 --rank 2 --adapters 2 --length 32 --rows 1 --micro 1 --new 4"
    result = bench_lora.run(parser.parse_args(options.split()))
    assert result.amount == 32 and set(result.seconds) == {"ours", "full"}
    assert "1 micro-batches of 1 x 32 tokens" in result.what
    config = replace(WHOLE, num_layers=1, vocab_size=256)
    base, own = forward.size(config), lora.size(config, LoraConfig(rank=2))
    assert result.notes["parameters"] == base
    assert result.notes["numbers of an adapter"] == own
    for remat in ("none", "block"):
        found = result.notes[f"update, remat {remat}"]
        # float32 here: the base and, of an adapter, masters, gradient and two moments.
        share = (4 * base + 16 * own) / (16 * base)
        said = found["parameters, gradients and optimizer, of full"]
        assert said == pytest.approx(share, rel=1e-3)
        assert set(found["bytes"]) == {"full", "adapters"}
    decoded = result.notes["decoding"]
    assert decoded["tokens/s"]["several"]["lowest"] > 0
    assert jax.devices()[0].platform == "cpu"
