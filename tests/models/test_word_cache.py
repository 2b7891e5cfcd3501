"""A tokenizer remembers words, which come again, but not lines, which do not."""

import random
import sys
import threading
from pathlib import Path

import pytest
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE

from models import hf
from models.chat import ChatRenderer
from models.word_cache import keep_words_only
from retrieval.encoders import plain_tokenizer
from scope_jax.small_world import assets

LINES = 10_000


def texts(seed):
    """Lines that come once, as those of documents and answers do."""
    draw = random.Random(seed)
    return ["".join(draw.choices("abcdefghij klmnop", k=240)) for _ in range(LINES)]


def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("who", ["tokenizer", "renderer", "index"])
def test_lines_are_not_remembered(who):
    """80 MB a thread and tokenizer before, which stayed until the thread ended."""
    tokenizer = hf.load_tokenizer(assets.MODEL)
    encode = {
        "tokenizer": tokenizer,
        "renderer": ChatRenderer.from_tokenizer(tokenizer).encode_text,
        "index": plain_tokenizer(tokenizer).encode,
    }[who]
    grown = []

    def work():
        encode("a first text")
        before = resident()
        for text in texts(who):
            encode(text)
        grown.append(resident() - before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert grown[0] < 30


def remembered(normalizer, cut):
    """Whether a tokenizer that cuts text like that goes on remembering pieces."""
    sizes = []

    class Model:
        def _resize_cache(self, size):
            sizes.append(size)

    class Other:
        model = Model()

    Other.normalizer, Other.pre_tokenizer = normalizer, cut
    assert keep_words_only(Other) is Other
    assert sizes in ([], [0])
    return not sizes


def test_only_tokenizers_that_cut_text_into_words_remember_them():
    spaces = normalizers.Replace(" ", "▁")
    gemma = pre_tokenizers.Split(" ", "merged_with_previous")
    assert not remembered(None, None)
    assert not remembered(spaces, None)  # Llama 2, Mistral
    assert not remembered(spaces, gemma)
    lines = pre_tokenizers.Split("\n", "merged_with_previous")
    assert not remembered(None, lines)
    assert remembered(None, pre_tokenizers.ByteLevel(use_regex=True))
    assert remembered(None, pre_tokenizers.Metaspace())


def test_tokens_are_the_same_without_it():
    vocab = {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4}

    def made():
        return Tokenizer(BPE(vocab, [("a", "b"), ("ab", "c")]))

    with_it, without = made(), keep_words_only(made())
    for text in ("abcab", "ccba", "abcab", "cabc"):
        assert without.encode(text).ids == with_it.encode(text).ids
