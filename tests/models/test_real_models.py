"""Real models, greedily, token by token as transformers continue; $SCOPE_MODELS."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import forward, hf
from models.cache import init_cache

torch = pytest.importorskip("torch")

PROMPTS = (
    "The capital of Switzerland is",
    "def fibonacci(n):\n",
    "Once upon a time there was a miller who",
    "Water boils at a lower temperature on a mountain because",
    "SELECT name, COUNT(*) FROM rivers",
    "The three laws of thermodynamics are",
    "import numpy as np\n\n",
    "Dear Sir or Madam,",
    "A sonata differs from a symphony in that",
    "1, 1, 2, 3, 5, 8,",
    "In 1848 the federal constitution",
    "class Stack:\n    def __init__(self):",
    "Q: How do bees find their way home?\nA:",
    "The quick brown fox",
    "La capitale de la France est",
    "To bake bread you need",
    "for i in range(10):\n    print(",
    "Photosynthesis turns",
    "The longest river in South America",
    "# Quicksort in Python\n",
)
NEW = 64
TIE = 1e-4  # float32 logits that are closer than this are a matter of rounding


def continuations(folder: Path, prompts: list[list[int]]) -> np.ndarray:
    """Transformers' greedy tokens [prompts, NEW], one prompt at a time."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rows = []
    for ids in prompts:
        out = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=int),
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            do_sample=False,
            # Nothing but the largest logit decides.
            repetition_penalty=1.0,
            eos_token_id=-1,
            pad_token_id=0,
        )
        rows.append(out[0, len(ids) :].tolist())
    return np.asarray(rows)


def decoder(folder: Path, prompts: list[list[int]]):
    """A function of tokens to feed [prompts, NEW]: our logits before each of them."""
    config, params = hf.load(folder, dtype=jnp.float32)
    params = forward.unstack(params, config)
    slots, chunk = len(prompts), max(map(len, prompts))
    each = -(-(chunk + NEW) // chunk)  # pages of a prompt's length
    cache = init_cache(config, slots * each, chunk, jnp.float32)
    tables = jnp.arange(slots * each).reshape(slots, each)
    tokens = np.asarray([ids + [0] * (chunk - len(ids)) for ids in prompts])
    lengths = np.asarray([len(ids) for ids in prompts])
    cache, hidden = jax.jit(forward.prefill, static_argnums=1)(
        params,
        config,
        cache,
        tokens,
        tables,
        np.zeros(slots, int),
        lengths - 1,
    )

    @jax.jit
    def step(params, cache, new, at):
        active = jnp.ones(slots, bool)
        cache, hidden = forward.decode_step(
            params, config, cache, new, tables, at, active
        )
        return cache, hidden, forward.unembed(params, config, hidden)

    def logits(feed: np.ndarray):
        nonlocal cache
        yield np.asarray(forward.unembed(params, config, hidden))
        for index in range(NEW - 1):
            cache, _, out = step(params, cache, feed[:, index], lengths + index)
            yield np.asarray(out)

    return logits


@pytest.mark.parametrize("name", ["smollm2-135m", "qwen05b", "gemma3-270m"])
def test_greedy_continuations_are_those_of_transformers(name):
    folder = Path(os.environ.get("SCOPE_MODELS", "")) / name
    if not (folder / "config.json").is_file():
        pytest.skip(f"no {name} in the folder $SCOPE_MODELS")
    tokenizer = hf.load_tokenizer(folder)
    prompts = [tokenizer(text)["input_ids"] for text in PROMPTS]
    expected = continuations(folder, prompts)
    differing, closest = [], np.inf
    # Transformers' tokens are fed, so that one tie doesn't hide what follows it.
    for index, logits in enumerate(decoder(folder, prompts)(expected)):
        best = logits.argmax(-1)
        top = np.sort(logits, axis=-1)[:, -2:]
        closest = min(closest, (top[:, 1] - top[:, 0]).min())
        for row in np.flatnonzero(best != expected[:, index]):
            gap = logits[row, best[row]] - logits[row, expected[row, index]]
            differing.append((PROMPTS[row], index, float(gap)))
    print(f"{name}: {expected.size} tokens, differing {differing}, closest {closest}")
    assert expected.shape == (len(PROMPTS), NEW)
    assert all(gap < TIE for *_, gap in differing)
    assert len(differing) <= 1
