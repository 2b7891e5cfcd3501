"""google-tunix's sampler on the benchmarks' work; runs in an interpreter of its own.

Every turn pads its prompts to the left and computes them anew; the rows of a batch end
together, with the longest. The cache is only as long as each call needs, prompts are
padded to multiples of 256 (not to powers of two, the sampler's own choice) and new
tokens to multiples of 32, so that few shapes are compiled. Talks as ``peers.Peer``
expects.
"""

import json
import sys
import time
from pathlib import Path


class Ids:
    """A tokenizer whose text is numbers; 0 is padding and nothing ends a row."""

    def encode(self, text):
        """The ids that the text lists."""
        return [int(word) for word in text.split()]

    def decode(self, ids):
        """No text."""
        return ""

    def bos_id(self):
        """None."""
        return 0

    def eos_id(self):
        """No token."""
        return -1

    def pad_id(self):
        """Never in the work."""
        return 0


def load(folder):
    """The model of a Hugging Face folder, float32, and its configuration."""
    import jax.numpy as jnp
    from tunix.models.qwen3 import model as qwen3
    from tunix.models.qwen3 import params as qwen3_params

    c = json.loads((Path(folder) / "config.json").read_text())
    theta = c.get("rope_theta") or c["rope_parameters"]["rope_theta"]
    config = qwen3.ModelConfig(
        num_layers=c["num_hidden_layers"],
        vocab_size=c["vocab_size"],
        embed_dim=c["hidden_size"],
        hidden_dim=c["intermediate_size"],
        num_heads=c["num_attention_heads"],
        head_dim=c["head_dim"],
        num_kv_heads=c["num_key_value_heads"],
        rope_theta=int(theta),
        norm_eps=c["rms_norm_eps"],
        use_tied_embedding=c["tie_word_embeddings"],
    )
    return config, qwen3_params.create_model_from_safe_tensors(
        folder, config, dtype=jnp.float32
    )


def up(count, unit):
    """``count``, up to the next multiple of ``unit``."""
    return -(-count // unit) * unit


class Player:
    """Plays conversations; keeps a sampler for each size of cache."""

    def __init__(self, folder):
        import jax

        self.config, self.model = load(folder)
        self.samplers = {}
        self.compiling = 0.0  # seconds so far
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event, seconds, **_):
        if event.startswith("/jax/core/compile/"):
            self.compiling += seconds

    def sample(self, prompts, new):
        """New tokens for prompts, and how many prompt tokens were computed."""
        from tunix.generate.sampler import CacheConfig, Sampler

        longest = max(map(len, prompts))
        length = up(longest, 256 if longest > 256 else 64)
        steps = up(new, 32)
        size = length + steps
        if size not in self.samplers:
            c = self.config
            cache = CacheConfig(
                cache_size=size,
                num_layers=c.num_layers,
                num_kv_heads=c.num_kv_heads,
                head_dim=c.head_dim,
            )
            self.samplers[size] = Sampler(self.model, Ids(), cache)
        output = self.samplers[size](
            [" ".join(map(str, prompt)) for prompt in prompts],
            max_generation_steps=steps,
            max_prompt_length=length,
            eos_tokens=[-1],
            temperature=1.0,
            top_p=1.0,
        )
        return output.tokens, length * len(prompts)

    def play(self, conversations, batch):
        """One round: (seconds, prompt tokens computed, padding included)."""
        prefilled = 0
        started, compiling = time.perf_counter(), self.compiling
        for first in range(0, len(conversations), batch):
            rows = conversations[first : first + batch]
            prompts = [list(row["prompt"]) for row in rows]
            for turns in zip(*(row["turns"] for row in rows), strict=True):
                tokens, computed = self.sample(prompts, max(t["new"] for t in turns))
                prefilled += computed
                for prompt, turn, new in zip(prompts, turns, tokens, strict=True):
                    used = [max(1, int(token)) for token in new[: turn["new"]]]
                    assert len(used) == turn["new"], (len(used), turn["new"])
                    prompt += used + turn["result"]
        seconds = time.perf_counter() - started
        return seconds - (self.compiling - compiling), prefilled


def main():
    """Load, play the first turns, say so, then play all for every line of the input."""
    import jax
    import tunix

    settings = json.loads(sys.argv[1])
    work = json.loads(Path(settings["work"]).read_text())
    player = Player(settings["model"])
    player.play(work["warm"], work["batch"])
    versions = {"tunix": tunix.__version__, "jax": jax.__version__}
    print(json.dumps(versions), flush=True)
    for _ in sys.stdin:
        seconds, prefilled = player.play(work["conversations"], work["batch"])
        print(json.dumps({"seconds": seconds, "prefilled": prefilled}), flush=True)


if __name__ == "__main__":
    main()
