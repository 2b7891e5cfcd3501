"""Loads the tokenizer of a Hugging Face model folder, and saves it with a model."""

import json
import shutil
import threading
from pathlib import Path
from typing import Any

from models.errors import UserError, first_line
from models.hf.folder import base_of, read_json, resolve
from models.word_cache import keep_words_only

# Transformers imports its modules on first use, which fails with two threads at once.
_TRANSFORMERS = threading.Lock()

TEMPLATE = "chat_template.jinja"
# How Qwen2's tokenizer cuts text, and a text that other ways cut otherwise.
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_PROBE = " We'LL see  e\u0301, 12345 (a).\n\n  b\t_c \u6f22\u5b57!\r\n "
# The files that a tokenizer of a supported family may consist of.
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    TEMPLATE,
)


def load_tokenizer(path: str | Path):
    """Loads the fast tokenizer of a model folder from its ``tokenizer.json``.

    An adapter's folder may leave it to the folder of its model.

    Returns:
      A ``transformers.PreTrainedTokenizerFast`` with the folder's chat template.

    Raises:
      UserError: if the folder has no tokenizer.json or it can't be read.
    """
    with _TRANSFORMERS:
        from transformers import PreTrainedTokenizerFast  # slow to import

    folder = resolve(path)
    if not (folder / "tokenizer.json").is_file():
        folder = base_of(folder) or folder
    read_json(folder / "tokenizer.json")
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(
            folder, local_files_only=True
        )
    except Exception as error:  # the Rust parser raises plain Exception
        raise UserError(
            f"{folder}: its tokenizer can't be read ({first_line(error)}): download "
            "tokenizer.json and tokenizer_config.json again"
        ) from error
    keep_words_only(tokenizer.backend_tokenizer)
    return tokenizer


def vocab_rows(tokenizer: Any) -> int:
    """Returns a tokenizer's highest id plus 1; the model may have more rows.

    The tokenizer's length would be too small if it skips ids.
    """
    return max(tokenizer.get_vocab().values()) + 1


def cuts_as_qwen2(tokenizer: Any) -> bool:
    """Whether a tokenizer cuts text before its merges as Qwen2's does.

    Transformers 5 reads the tokenizer of any folder of the type qwen2 as Qwen2's: with
    its vocabulary and merges, but not with its normalizer and pre-tokenizer, whatever
    the files say.
    """
    from tokenizers import Regex, normalizers, pre_tokenizers

    raw = tokenizer.backend_tokenizer
    split = pre_tokenizers.Split(Regex(QWEN2_WORDS), "isolated")
    given, cut = QWEN2_PROBE, raw.pre_tokenizer
    normal = raw.normalizer.normalize_str(given) if raw.normalizer else given
    wanted = normalizers.NFC().normalize_str(given)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    theirs = pre_tokenizers.Sequence([split, byte_level]).pre_tokenize_str(wanted)
    ours = cut.pre_tokenize_str(normal) if cut else []
    return [word for word, _ in ours] == [word for word, _ in theirs]


def save_tokenizer(folder: Path, tokenizer: Any, template: str | None) -> None:
    """Writes a tokenizer into ``folder``, with a chat template.

    If the tokenizer is unchanged, the files that it was loaded from are copied: saving
    it again would drop fields that this version of transformers doesn't know.

    Args:
      folder: must exist.
      tokenizer: from ``load_tokenizer``, or created in memory.
      template: Jinja source; None keeps the tokenizer's own.
    """
    source = Path(tokenizer.name_or_path or "")
    if _unchanged(tokenizer, source):
        for name in FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
    else:
        tokenizer.save_pretrained(folder)
    template = tokenizer.chat_template if template is None else template
    if isinstance(template, str):
        (folder / TEMPLATE).write_text(template, encoding="utf-8")
    _speak_to_both(folder, template if isinstance(template, str) else None)


def _unchanged(tokenizer: Any, source: Path) -> bool:
    """Whether ``source`` still holds the tokenizer that was loaded from it."""
    if not (source / "tokenizer.json").is_file():
        return False
    try:
        again = load_tokenizer(source)
    except UserError:
        return False
    same = tokenizer.backend_tokenizer.to_str() == again.backend_tokenizer.to_str()
    return same and tokenizer.special_tokens_map == again.special_tokens_map


def _speak_to_both(folder: Path, template: str | None) -> None:
    """Changes what transformers 5 writes into tokenizer_config.json and 4 can't read.

    Both read the result the same way, and so do servers that use version 4.

    Args:
      folder: with the files of a tokenizer.
      template: replaces one that the file has, for programs that don't read the
        separate file yet.
    """
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return
    config = json.loads(file.read_text(encoding="utf-8"))
    edited = dict(config)
    if edited.get("tokenizer_class") == "TokenizersBackend":
        edited["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(edited.get("extra_special_tokens"), list):  # a dictionary in 4
        extra = edited.pop("extra_special_tokens")
        edited["additional_special_tokens"] = (
            edited.get("additional_special_tokens") or extra
        )
    if template is not None and "chat_template" in edited:
        edited["chat_template"] = template
    if edited != config:
        text = json.dumps(edited, indent=2, ensure_ascii=False)
        file.write_text(text + "\n", encoding="utf-8")
