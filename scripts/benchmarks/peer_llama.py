"""llama.cpp as a peer: conversations in slots, as its server plays them.

Runs in an interpreter that has llama-cpp-python and gguf, and nothing of
ours, and talks as ``harness.Peer`` expects. The Python server of that package answers
one request at a time, so what llama.cpp's own server does is done here by its library:
every slot keeps its cache between the turns of a conversation, a batch holds the next
token of each slot that generates and as much of the others' prompts as fits, and a
conversation that ends makes room for the next one. Tokens are drawn from the whole
distribution at temperature 1.
"""

import collections
import ctypes
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

BATCH = 512
"""Tokens of a batch, as its server's ``--ubatch-size``."""
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""Hugging Face's name of a tensor of Qwen3 -> its name in a GGUF file."""


def convert(folder: str, file: str, *, quantized: bool) -> dict[str, Any]:
    """Writes a Qwen3 folder as a GGUF file; returns its configuration.

    Args:
      quantized: matrices as Q8_0; else in the type that they have in the folder.
    """
    import gguf
    import numpy as np
    from gguf.utility import SafetensorsLocal

    c = json.loads((Path(folder) / "config.json").read_text())
    writer = gguf.GGUFWriter(file, "qwen3")
    writer.add_block_count(c["num_hidden_layers"])
    writer.add_context_length(c["max_position_embeddings"])
    writer.add_embedding_length(c["hidden_size"])
    writer.add_feed_forward_length(c["intermediate_size"])
    writer.add_head_count(c["num_attention_heads"])
    writer.add_head_count_kv(c["num_key_value_heads"])
    writer.add_key_length(c["head_dim"])
    writer.add_value_length(c["head_dim"])
    writer.add_layer_norm_rms_eps(c["rms_norm_eps"])
    theta = c.get("rope_theta") or c["rope_parameters"]["rope_theta"]
    writer.add_rope_freq_base(theta)
    writer.add_vocab_size(c["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    kinds = gguf.GGMLQuantizationType
    for path in sorted(Path(folder).glob("*.safetensors")):
        for name, tensor in SafetensorsLocal(path).tensors.items():
            if name == "lm_head.weight" and c["tie_word_embeddings"]:
                continue
            values = tensor.mmap_bytes()
            if halves := tensor.dtype == "BF16":
                values = (values.view(np.uint16).astype(np.uint32) << 16).view(np.uint8)
            values = values.view(np.float32).reshape(tensor.shape)
            kind = kinds.F32
            if len(tensor.shape) > 1:  # norms are float32 in every GGUF file
                same = kinds.BF16 if halves else kinds.F32
                kind = kinds.Q8_0 if quantized else same
            data = gguf.quants.quantize(values, kind)
            writer.add_tensor(renamed(name), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return c


def renamed(name: str) -> str:
    """A tensor's name in a GGUF file."""
    stem = name.removesuffix(".weight")
    if stem.startswith("model.layers."):
        number, _, part = stem.removeprefix("model.layers.").partition(".")
        return f"blk.{number}.{NAMES[part]}.weight"
    return f"{NAMES[stem]}.weight"


class Slots:
    """A context of llama.cpp with a number of slots.

    Args:
      file: the GGUF file.
      slots: conversations that are played together.
      length: tokens of the longest one.
    """

    def __init__(self, file: str, slots: int, length: int):
        import llama_cpp

        self.cpp, self.slots = llama_cpp, slots
        self._silent = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._silent, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(
            file.encode(), llama_cpp.llama_model_default_params()
        )
        settings = llama_cpp.llama_context_default_params()
        # Cells of a slot come in blocks of 256.
        settings.n_ctx = slots * -(-length // 256) * 256
        settings.n_batch = settings.n_ubatch = BATCH
        settings.n_seq_max = slots
        settings.n_threads = settings.n_threads_batch = os.cpu_count()
        self.context = llama_cpp.llama_init_from_model(model, settings)
        if not self.context:
            raise RuntimeError("llama.cpp makes no context of this model")
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.sampler = llama_cpp.llama_sampler_init_dist(0)
        self.batch = llama_cpp.llama_batch_init(BATCH, 0, 1)

    def play(self, conversations: list[dict]) -> dict[str, Any]:
        """Seconds, and prompt tokens computed."""
        prefilled = 0
        started = time.perf_counter()
        waiting = collections.deque(conversations)
        playing: dict[int, Player] = {}
        while waiting or playing:
            for slot in range(self.slots):
                if slot not in playing and waiting:
                    self.cpp.llama_memory_seq_rm(self.memory, slot, -1, -1)
                    playing[slot] = Player(waiting.popleft())
            # Those that generate have one token each, and go first.
            order = sorted(playing, key=lambda slot: len(playing[slot].queue))
            rows, ends = 0, {}
            for slot in order:
                one = playing[slot]
                count = min(len(one.queue), BATCH - rows)
                prefilled += count if one.prompt else 0
                for _ in range(count):
                    self._put(rows, one.queue.popleft(), one.position, slot)
                    one.position, rows = one.position + 1, rows + 1
                if count and not one.queue:
                    self.batch.logits[rows - 1] = 1
                    ends[slot] = rows - 1
            self.batch.n_tokens = rows
            if code := self.cpp.llama_decode(self.context, self.batch):
                raise RuntimeError(f"llama_decode: {code}")
            for slot, row in ends.items():
                sample = self.cpp.llama_sampler_sample
                if playing[slot].take(sample(self.sampler, self.context, row)):
                    del playing[slot]
        return {"seconds": time.perf_counter() - started, "prefilled": prefilled}

    def _put(self, row: int, token: int, position: int, slot: int) -> None:
        batch = self.batch
        batch.token[row], batch.pos[row] = token, position
        batch.n_seq_id[row], batch.seq_id[row][0] = 1, slot
        batch.logits[row] = 0


class Player:
    """One conversation: what is to be computed next, and what is left.

    Attributes:
      queue: tokens that are not in the cache.
      position: of the first of them.
      prompt: whether they belong to a prompt.
    """

    def __init__(self, conversation: dict):
        self.queue = collections.deque(conversation["prompt"])
        self.position, self.prompt = 0, True
        self._turns = collections.deque(conversation["turns"])
        self._left = self._turns[0]["new"]

    def take(self, token: int) -> bool:
        """Appends a sampled token, and a result after a turn's last; True: the end."""
        self.prompt, self._left = False, self._left - 1
        self.queue.append(token)
        if not self._left:
            self.queue.extend(self._turns.popleft()["result"])
            if not self._turns:
                return True
            self.prompt, self._left = True, self._turns[0]["new"]
        return False


def longest(conversations: list[dict]) -> int:
    """Tokens of the longest conversation."""
    return max(
        len(one["prompt"]) + sum(t["new"] + len(t["result"]) for t in one["turns"])
        for one in conversations
    )


def main() -> None:
    """Gets ready, says so, then does one turn for every line of the input."""
    settings = json.loads(sys.argv[1])
    quantized = settings["peer"] == "llama-q8"
    file = str(Path(settings["model"]).with_name(f"{settings['peer']}.gguf"))
    convert(settings["model"], file, quantized=quantized)
    work = json.loads(Path(settings["work"]).read_text())
    slots = Slots(file, work["batch"], longest(work["conversations"]) + 1)
    slots.play(work["warm"])
    ready = {
        "llama_cpp": slots.cpp.__version__,
        "threads": os.cpu_count(),
        "weights": "Q8_0" if quantized else "as in the folder",
    }
    print(json.dumps(ready), flush=True)
    for _ in sys.stdin:
        print(json.dumps(slots.play(work["conversations"])), flush=True)


if __name__ == "__main__":
    main()
