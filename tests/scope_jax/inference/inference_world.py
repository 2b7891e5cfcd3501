"""A tiny random model and a few passages on disk, for tests of inference."""

from pathlib import Path
from types import MappingProxyType

import jax
import jax.numpy as jnp
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from models import forward, hf
from models.config import DecoderConfig
from retrieval.config import RetrievalConfig
from rl.engine.config import EngineConfig
from scope_jax.inference import InferenceConfig, client, supervisor

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PASSAGES = (
    ("Aldwick", "A town on the river Tarn. Its guild of glassmakers is old."),
    ("Tarn", "A river that springs in the Grey Hills and passes Aldwick."),
    ("Maren Holt", "A glassmaker of Aldwick who wrote the Book of Lamps."),
    ("Book of Lamps", "A work on lamps in nine chapters."),
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte a token, plus ChatML's control tokens."""
    vocab = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = CHATML
    return fast


def write_model(folder: Path, seed: int) -> str:
    """Saves a random Qwen3-shaped model of one layer; returns its content hash."""
    config = DecoderConfig(
        model_type="qwen3",
        vocab_size=264,
        num_layers=1,
        hidden_size=16,
        intermediate_size=16,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        max_position=256,
    )
    params = forward.init(config, jax.random.key(seed), jnp.float32)
    hf.save(folder, config, params, tokenizer=byte_tokenizer())
    return hf.content_hash(folder)


def write_passages(file: Path) -> None:
    """The corpus as JSON lines."""
    import json

    rows = [
        {"id": str(i), "contents": f"{title}\n{text}"}
        for i, (title, text) in enumerate(PASSAGES)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def inference_config(**changes) -> InferenceConfig:
    """Small engine, short waits."""
    engine = EngineConfig(slots=4, max_length=128)
    return InferenceConfig(**({"engine": engine, "ready_timeout": 400.0} | changes))


def retrieval_config(folder: Path) -> RetrievalConfig:
    """Lexical search over ``write_passages``' corpus."""
    return RetrievalConfig(passages=str(folder / "passages.jsonl"), encoder="lexical")


class Client(client.Client):
    """A client that closes its connections, and asks for what a run never does."""

    more = MappingProxyType({})
    """Fields that requests for completions have besides."""

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exception):
        await self.close()

    async def _ask_completions(self, bodies):
        bodies = [{**body, **self.more} for body in bodies]
        async for found in super()._ask_completions(bodies):
            yield found


class Supervisor(supervisor.Supervisor):
    """A supervisor that stops its server."""

    @property
    def pid(self) -> int | None:
        """Process id of the server; None where it is not ours."""
        return self._process.pid if self._process else None

    def client(self, **changes) -> Client:
        """A client that may do everything."""
        return Client(inference_config(**changes), self.url, self.secrets)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exception):
        self.stop()
