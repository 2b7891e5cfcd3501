"""Ends a tokenizer's memory of words where its words are whole lines or texts."""

from tokenizers import Tokenizer

PROBE = "two words"


def keep_words_only(tokenizer: Tokenizer) -> Tokenizer:
    """Returns ``tokenizer``, which now remembers words only if it cuts text into words.

    The library keeps the tokens of up to 10,000 pieces, and since version 0.23 in each
    thread: those of a model of byte pairs stay until the thread ends, whatever becomes
    of the tokenizer. Words come again and again, and take 5 MB a thread (Qwen3's, which
    is half as fast again with them). A piece that is a line hardly comes twice, and
    10,000 of them take 80 MB (Gemma's and Llama 2's, and the small world's). Tokens are
    the same with and without.
    """
    normal = PROBE
    if tokenizer.normalizer:
        normal = tokenizer.normalizer.normalize_str(PROBE)
    cut = tokenizer.pre_tokenizer
    pieces = cut.pre_tokenize_str(normal) if cut else [normal]
    resize = getattr(tokenizer.model, "_resize_cache", None)  # BPE's and Unigram's
    if resize and len(pieces) == 1:
        resize(0)
    return tokenizer
