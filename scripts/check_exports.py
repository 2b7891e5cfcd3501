"""Reads exports of every family with other versions of transformers.

    python scripts/check_exports.py --reader PYTHON [--reader PYTHON ...]

A reader is the Python of an environment of its own, with torch and a version of
transformers: 4.57.6 and the newest, say. Small random models are exported: loaded from
a config.json as transformers 4 and 5 spell it, and made here. Each reader must find our
logits, and our tokenizer's ids. Tests check what the files hold; that programs read
them so is checked here.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import check_packages  # noqa: F401
from models.errors import UserError
from scope_jax.run import cli

SHAPE = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
# Model type -> its own fields, and how its frequencies are scaled.
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "qwen3": ({"head_dim": 16}, YARN),
    "qwen2": ({}, {}),
    "olmo3": ({"sliding_window": 32}, {}),
    "llama": ({}, LLAMA3),
}
THETA = 1e6
TEXT = "<|im_start|>user\nA river, 12.5 km: \u00fcber \u6f22\u5b57?<extra><|im_end|>\n"
# Of the logits' standard deviation. Without the right base it is above 1.
TOLERANCE = 1e-3
READER = """
import json, sys, numpy, torch, transformers
torch.set_num_threads(1)
folders, text = json.loads(sys.stdin.read())
said = {"version": transformers.__version__}
for folder in folders:
    auto = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", torch_dtype="auto")
    ids = numpy.load(folder + "/ids.npy")
    with torch.no_grad():
        got = auto.eval()(torch.tensor(ids)).logits.float().numpy()
    ours = numpy.load(folder + "/logits.npy")
    words = transformers.AutoTokenizer.from_pretrained(folder)
    said[folder] = [float(abs(got - ours).max() / ours.std()), words.encode(text)]
print(json.dumps(said))
"""


def main(argv: Sequence[str]) -> int:
    parser = cli.ArgumentParser(prog="check_exports.py", description=__doc__)
    parser.add_argument(
        "--reader", action="append", required=True, help="its Python; may be repeated"
    )
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as place:
        expected = exports(Path(place))
        wrong = [line for one in options.reader for line in read(one, expected)]
    if wrong:
        raise UserError("; ".join(wrong))
    return 0


def exports(place: Path) -> dict[str, list[int]]:
    """Makes the folders; returns the ids of ``TEXT`` by each folder's tokenizer."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from models import forward, hf
    from models.config import DecoderConfig

    jax.config.update("jax_platforms", "cpu")
    run = jax.jit(forward.forward, static_argnums=1)
    words, found = _tokenizer(), {}
    ids = np.random.default_rng(0).integers(0, 256, (2, 40))
    for family in FAMILIES:
        for spelling in ("4", "5", "ours"):
            config = DecoderConfig.from_hf(_fields(family, spelling))
            if spelling == "ours":
                config = replace(config, hf="")
            params = forward.init(config, jax.random.key(1), jnp.float32)
            # So that positions matter: at first, random attention looks everywhere.
            params = jax.tree.map(lambda x: x * (4.0 if x.ndim > 2 else 1.0), params)
            folder = place / f"{family}-{spelling}"
            hf.save(folder, config, params, tokenizer=words)
            logits = run(params, config, jnp.asarray(ids, jnp.int32))
            np.save(folder / "ids.npy", ids)
            np.save(folder / "logits.npy", np.asarray(logits))
            found[str(folder)] = hf.load_tokenizer(folder).encode(TEXT)
    return found


def read(python: str, expected: dict[str, list[int]]) -> list[str]:
    """What a reader reads wrongly, a line each; prints how far off it is."""
    done = subprocess.run(
        [python, "-c", READER],
        input=json.dumps([list(expected), TEXT]),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return [f"--reader {python}: ended with {last!r}: install torch, transformers"]
    said = json.loads(done.stdout.splitlines()[-1])
    version, wrong = said.pop("version"), []
    for folder, (gap, ids) in said.items():
        name = f"transformers {version}, {Path(folder).name}"
        print(f"{name}: logits differ by {gap:.1e} of their standard deviation")
        if not gap < TOLERANCE:
            wrong.append(f"{name}: other logits")
        if ids != expected[folder]:
            wrong.append(f"{name}: other ids")
    return wrong


def _fields(family: str, generation: str) -> dict[str, Any]:
    """A config.json as transformers 5 writes it, or else 4."""
    own, scaling = FAMILIES[family]
    fields = {"model_type": family, **SHAPE, **own}
    if generation != "5":
        old = {"rope_theta": THETA, "torch_dtype": "float32"}
        return fields | old | ({"rope_scaling": scaling} if scaling else {})
    one = {"rope_type": "default", **scaling, "rope_theta": THETA}
    if family == "olmo3":
        one = {"full_attention": one, "sliding_attention": dict(one)}
    return fields | {"rope_parameters": one, "dtype": "float32"}


def _tokenizer() -> Any:
    """Bytes as tokens, and special tokens of every sort."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<extra>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<extra>"],
    )


if __name__ == "__main__":
    cli.run_main(main)
