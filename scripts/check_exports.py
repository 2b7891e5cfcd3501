"""Reads exports of every family with other versions of transformers.

    python scripts/check_exports.py --transformers 4.57.6 --transformers 5.24.0
    python scripts/check_exports.py --reader PYTHON --family ministral3

For each version an environment of its own is made, with torch, and deleted at the end
(1 GB, minutes); a reader is the Python of one that is there. Small random models are
exported: loaded from a config.json as transformers 4 and 5 spell it, and made here.
Each reader must find our logits, the ids of our tokenizer and those of the chat
template; a family that its version doesn't know yet is named. Tests check what the
files hold; that programs read them so is checked here.
"""

import datetime
import importlib.metadata
import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import check_packages  # noqa: F401
from models import families
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
MIXED = ["full_attention", *["sliding_attention"] * 3]
# Model type -> its own fields, and how its frequencies are scaled.
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "qwen3": ({"head_dim": 16}, YARN),
    "qwen2": ({"tie_word_embeddings": True}, {}),
    "olmo3": ({"sliding_window": 32}, {}),
    "llama": ({"attention_bias": True, "mlp_bias": True}, LLAMA3),
    "gemma3_text": (
        {
            "head_dim": 16,
            "sliding_window": 32,
            "sliding_window_pattern": 2,
            "query_pre_attn_scalar": 24,
        },
        {"rope_type": "linear", "factor": 8.0},
    ),
    "smollm3": ({"no_rope_layers": [1, 0, 1, 1], "pad_token_id": None}, {}),
    "mistral": ({"head_dim": 16, "sliding_window": 32}, YARN),
    "ministral": ({"head_dim": 16, "sliding_window": 32, "layer_types": MIXED}, YARN),
    "ministral3": (
        {"head_dim": 16},
        {
            **YARN,
            "original_max_position_embeddings": 16,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1,
        },
    ),
}
NEW = "ministral3"
"""Not known to transformers 4."""
THETA = 1e6
TEXT = (
    "<|im_start|>user\nThe rivers, 12345 km: e\u0301 \u6f22\u5b57?<extra><|im_end|>\n"
)
MESSAGES = [
    {"role": "system", "content": "Answer in a word."},
    {"role": "user", "content": " Which river has 12345 km?\n"},
    {"role": "assistant", "content": "None."},
    {"role": "user", "content": "Sure? e\u0301"},
]
# Of the logits' standard deviation. Without the right base it is above 1.
TOLERANCE = 1e-3
READER = """
import json, sys, numpy, torch, transformers
torch.set_num_threads(1)
folders, text, messages = json.loads(sys.stdin.read())
said = {"version": transformers.__version__}
for folder in folders:
    fields = json.load(open(folder + "/config.json"))
    if fields["model_type"] not in transformers.CONFIG_MAPPING:
        said[folder] = None
        continue
    auto = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", torch_dtype="auto")
    ids = numpy.load(folder + "/ids.npy")
    with torch.no_grad():
        got = auto.eval()(torch.tensor(ids)).logits.float().numpy()
    ours = numpy.load(folder + "/logits.npy")
    words = transformers.AutoTokenizer.from_pretrained(folder)
    said[folder] = [float(abs(got - ours).max() / ours.std()), str(auto.dtype), [
        words.encode(text),
        words.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False)]]
print(json.dumps(said))
"""
Ids = list[list[int]]


def main(argv: Sequence[str]) -> int:
    parser = cli.ArgumentParser(prog="check_exports.py", description=__doc__)
    parser.add_argument(
        "--transformers", action="append", default=[], help="a version; repeatable"
    )
    parser.add_argument(
        "--reader", action="append", default=[], help="a Python; repeatable"
    )
    parser.add_argument(
        "--family",
        action="append",
        choices=tuple(FAMILIES),
        help="this one only; repeatable",
    )
    options = parser.parse_args(argv)
    if not options.transformers and not options.reader:
        parser.error("no reader: name one with --transformers or --reader")
    with tempfile.TemporaryDirectory() as place:
        folders = Path(place)
        readers = [*options.reader, *(made(v, folders) for v in options.transformers)]
        expected = exports(folders, options.family or tuple(FAMILIES))
        wrong = [line for one in readers for line in read(one, expected)]
    if wrong:
        raise UserError("; ".join(wrong))
    return 0


def made(version: str, place: Path) -> str:
    """The Python of a new environment with a version of transformers."""
    folder = place / f"transformers-{version}"
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    # The torch that is installed here: another one may be made for other devices.
    torch = f"torch=={importlib.metadata.version('torch')}"
    command = [python, "-m", "pip", "install", "-q", f"transformers=={version}", torch]
    done = subprocess.run([*command, "numpy"], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"--transformers {version}: pip ended with {last!r}")
    return python


def exports(place: Path, names: Sequence[str]) -> dict[str, Ids]:
    """Makes the folders; returns the ids of ``TEXT`` and ``MESSAGES`` in each."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from models import forward, hf
    from models.chat import ChatRenderer
    from models.config import DecoderConfig

    jax.config.update("jax_platforms", "cpu")
    run = jax.jit(forward.forward, static_argnums=1)
    found = {}
    ids = np.random.default_rng(0).integers(0, 256, (2, 40))
    for family in names:
        words = _tokenizer(family)
        template = families.FAMILIES[family].template
        # A template that prints the date is told the reader's day.
        today = datetime.date.today().isoformat()
        chat = ChatRenderer.from_tokenizer(words, template=template, date=today)
        for spelling in ("4", "5", "ours"):
            config = DecoderConfig.from_hf(_fields(family, spelling))
            if spelling == "ours":
                config = replace(config, hf="")
            params = forward.init(config, jax.random.key(1), jnp.float32)
            params = jax.tree.map(_shaken, params)
            folder = place / f"{family}-{spelling}"
            hf.save(folder, config, params, tokenizer=words, template=chat.template)
            logits = run(params, config, jnp.asarray(ids, jnp.int32))
            np.save(folder / "ids.npy", ids)
            np.save(folder / "logits.npy", np.asarray(logits))
            found[str(folder)] = [words.encode(TEXT), chat.prompt_ids(MESSAGES)]
    return found


def read(python: str, expected: dict[str, Ids]) -> list[str]:
    """What a reader reads wrongly, a line each; prints how far off it is."""
    done = subprocess.run(
        [python, "-c", READER],
        input=json.dumps([list(expected), TEXT, MESSAGES]),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return [f"--reader {python}: ended with {last!r}: install torch, transformers"]
    said = json.loads(done.stdout.splitlines()[-1])
    version, wrong = said.pop("version"), []
    for folder, found in said.items():
        name = f"transformers {version}, {Path(folder).name}"
        if found is None:
            print(f"{name}: a family that it doesn't know")
            if not Path(folder).name.startswith(f"{NEW}-"):
                wrong.append(f"{name}: not known")
            continue
        gap, dtype, ids = found
        print(f"{name}: logits differ by {gap:.1e} of their standard deviation")
        if not gap < TOLERANCE:
            wrong.append(f"{name}: other logits")
        if dtype != "torch.float32":
            wrong.append(f"{name}: {dtype}")
        if ids != expected[folder]:
            wrong.append(f"{name}: other ids")
    return wrong


def _shaken(x: Any) -> Any:
    """A parameter as training may have left it, so that each of them matters.

    At first, biases are 0 and norms 1, and random attention looks everywhere.
    """
    import jax

    noise = 0.1 * jax.random.normal(jax.random.key(x.size), x.shape)
    return x * (4.0 if x.ndim > 2 else 1.0) + noise * (x.ndim < 3)


def _fields(family: str, generation: str) -> dict[str, Any]:
    """A config.json as transformers 5 writes it, or else 4."""
    own, scaling = FAMILIES[family]
    fields = {"model_type": family, **SHAPE, **own}
    if generation != "5":
        old = {"rope_theta": THETA, "torch_dtype": "float32"}
        return fields | old | ({"rope_scaling": scaling} if scaling else {})
    one = {"rope_type": "default", **scaling, "rope_theta": THETA}
    if families.FAMILIES[family].rope_by_kind:
        local = dict(one) if family == "olmo3" else {"rope_type": "default"}
        one = {
            "full_attention": one,
            "sliding_attention": {"rope_theta": THETA} | local,
        }
    return fields | {"rope_parameters": one, "dtype": "float32"}


def _tokenizer(family: str) -> Any:
    """Bytes and a few words as tokens, and special tokens of every sort."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers
    from tokenizers import pre_tokenizers as pre
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    from models.hf.tokenizer import QWEN2_WORDS

    raw = Tokenizer(models.BPE())
    if family == "qwen2":  # of which transformers 5 reads no other, see the docs
        raw.normalizer = normalizers.NFC()
        cut = pre.Split(Regex(QWEN2_WORDS), "isolated")
        behind = pre.ByteLevel(add_prefix_space=False, use_regex=False)
        raw.pre_tokenizer = pre.Sequence([cut, behind])
    else:
        raw.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<extra>"]
    special += ["<bos>", "<start_of_turn>", "<end_of_turn>", "<s>", "</s>"]
    special += ["[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]
    trainer = BpeTrainer(
        vocab_size=SHAPE["vocab_size"],
        special_tokens=special,
        initial_alphabet=pre.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([TEXT.partition("user")[2].partition("<")[0]] * 9, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<extra>"],
    )


if __name__ == "__main__":
    cli.run_main(main)
