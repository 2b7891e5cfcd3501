"""Text in pieces is the whole text, for any tokenizer that isn't refused.

Random tokenizers of many kinds: with and without spaces put before a text, normalizers,
words cut before they are encoded, control tokens that swallow the space beside them.
"""

import functools
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from models.chat import ChatRenderer
from models.errors import UserError
from models.hf.tokenizer import QWEN2_WORDS

transformers = pytest.importorskip("transformers")

CONTROL = ["<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>"]
CONTROL += ["<|end_header_id|>", "<|eot_id|>", "<unk>"]
QWEN25 = Path(__file__).parent / "templates" / "qwen25.jinja"
TEMPLATES = ["chatml", "llama3", "olmo3_consistent_eos", "qwen3_strip_thinking"]
TEMPLATES.append(str(QWEN25))
NORMALIZERS = {
    "none": None,
    "nfc": normalizers.NFC(),
    "nfkc": normalizers.NFKC(),
    "lower": normalizers.Lowercase(),
    "strip": normalizers.Strip(),
    # Llama-2's.
    "prepend": normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    ),
}
WORDS = [
    "some words and more words of a user and an assistant\n\nplain, 12.5 km",
    "system tool functions the answer is \u00fcber \u6f22\u5b57 e\u0301",
]
# Bytes as letters, cut in a way of the seed or not at all; SentencePiece's words, with
# a space before the text (always, or before its first word) or not; and Llama-2's kind,
# which cuts nothing and falls back to bytes.
KINDS = ["bytes", "bytes, cut", "bytes, space", "always", "first", "never"]
KINDS += ["unigram", "fallback"]
CUTS = {
    "gpt2": None,
    "digits": pre_tokenizers.Digits(individual_digits=True),
    "qwen2": pre_tokenizers.Split(Regex(QWEN2_WORDS), "isolated"),
    "llama3": pre_tokenizers.Split(
        Regex(QWEN2_WORDS.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)), "isolated"
    ),
    "breaks": pre_tokenizers.Split("\n", "merged_with_previous"),
}
STRIPS = ["", "rstrip", "lstrip"]
SEEDS = range(4)


def words_of(seed):
    """What a tokenizer learns from: texts of chats, and joints between their parts."""
    rng = random.Random(seed)
    parts = [*" ".join(WORDS).split(" "), "\n", " ", "\n\n", "12", "\u00fc", "user\n"]
    return [*WORDS, *("".join(rng.choices(parts, k=9)) for _ in range(12))] * 4


@functools.cache
def tokenizer_of(kind, normalizer, strip="", seed=0):
    """A tokenizer of a kind; ``strip`` is a side on which control tokens swallow."""
    normal, rng = NORMALIZERS[normalizer], random.Random(seed)
    byte_level, texts = kind.startswith("bytes"), words_of(seed)
    fallback = kind == "fallback"
    model = models.Unigram() if kind == "unigram" else models.BPE(unk_token="<unk>")
    if fallback:
        model = models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    raw = Tokenizer(model)
    if normal is not None:
        raw.normalizer = normal
    special = list(CONTROL)
    if byte_level:
        cut = CUTS[rng.choice(sorted(CUTS))] if kind == "bytes, cut" else None
        letters = pre_tokenizers.ByteLevel(
            add_prefix_space=kind == "bytes, space",
            use_regex=kind == "bytes, cut" and cut is None,
        )
        both = [cut, letters] if cut else [letters]
        raw.pre_tokenizer = pre_tokenizers.Sequence(both)
        raw.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    elif fallback:
        raw.decoder = decoders.Sequence(
            [
                decoders.Replace("\u2581", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
            ]
        )
        alphabet = sorted({*map(chr, range(33, 127)), "\u2581"})
        special += [f"<0x{i:02X}>" for i in range(256)]
    else:
        scheme = "always" if kind == "unigram" else kind
        raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        raw.decoder = decoders.Metaspace(prepend_scheme=scheme)
        alphabet = sorted({*"".join(texts), *map(chr, range(33, 127)), "\n", "\u2581"})
    size = len(special) + len(alphabet) + rng.randrange(20, 120)
    options = {"special_tokens": special, "initial_alphabet": alphabet}
    options |= {"vocab_size": size, "show_progress": False}
    if kind == "unigram":
        trainer = trainers.UnigramTrainer(unk_token="<unk>", **options)
    else:
        trainer = trainers.BpeTrainer(**options)
    raw.train_from_iterator(texts, trainer)
    if fallback:  # Bytes are pieces of the vocabulary, not added tokens.
        fields = json.loads(raw.to_str())
        fields["added_tokens"] = [
            token for token in fields["added_tokens"] if token["content"] in CONTROL
        ]
        raw = Tokenizer.from_str(json.dumps(fields))
    if strip:
        raw.add_special_tokens([AddedToken(text, **{strip: True}) for text in CONTROL])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", unk_token="<unk>"
    )


def renderer_of(template, *kind):
    """The renderer, or None if the tokenizer is refused."""
    try:
        return ChatRenderer.from_tokenizer(tokenizer_of(*kind), template=template)
    except UserError as error:
        assert str(error).startswith("tokenizer: ") and "\n" not in str(error)
        return None


texts = st.lists(
    st.sampled_from(
        ["some", " ", "words", "\n", "12", ".", "\u00fc", "e\u0301", "\u6f22"]
    ),
    max_size=8,
).map("".join)
conversations = st.lists(texts, min_size=1, max_size=4).map(
    lambda turns: [
        {"role": ("user", "assistant")[i % 2], "content": text}
        for i, text in enumerate(turns)
    ]
)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: Path(path).stem)
@given(
    st.sampled_from(KINDS),
    st.sampled_from(sorted(NORMALIZERS)),
    st.sampled_from(STRIPS),
    st.sampled_from(SEEDS),
    conversations,
)
@settings(max_examples=40, deadline=None)
def test_pieces_are_the_whole_or_the_tokenizer_is_refused(
    template, kind, normalizer, strip, seed, messages
):
    renderer = renderer_of(template, kind, normalizer, strip, seed)
    if renderer is None:
        assert kind not in ("bytes", "bytes, cut") or normalizer != "none"
        return
    tokenizer = tokenizer_of(kind, normalizer, strip, seed)
    text = renderer.render(messages, add_generation_prompt=True)
    whole = tokenizer.encode(text, add_special_tokens=False)
    assert renderer.prompt_ids(messages) == whole


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: Path(path).stem)
@pytest.mark.parametrize("kind", ["bytes", "bytes, cut"])
@pytest.mark.parametrize("strip", STRIPS)
def test_byte_level_tokenizers_without_a_normalizer_are_never_refused(
    kind, template, strip
):
    for seed in SEEDS:
        assert renderer_of(template, kind, "none", strip, seed) is not None


@pytest.mark.parametrize(
    "kind",
    [
        ("always", "none"),
        ("first", "none"),
        ("unigram", "none"),
        ("never", "prepend"),
        ("fallback", "prepend"),  # Llama-2's
        ("bytes, space", "none"),
    ],
)
def test_tokenizers_that_add_or_drop_spaces_are_refused(kind):
    assert renderer_of("chatml", *kind) is None


def test_ids_that_grow_elsewhere_than_at_the_end_are_rendered_again():
    """Without a cut between words, a line break and what is behind it may be one."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=CONTROL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(["\nplain"] * 9, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>"
    )
    assert len(tokenizer.encode("\nplain")) == 1
    assert not ChatRenderer.from_tokenizer(tokenizer, template="chatml").append_only
