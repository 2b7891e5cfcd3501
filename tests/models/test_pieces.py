"""Text in pieces is the whole text, for any tokenizer that isn't refused.

Tokenizers of many kinds, trained on a few words: with and without spaces put before a
text, normalizers, and words cut before they are encoded.
"""

import functools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from models.chat import ChatRenderer
from models.errors import UserError

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
KINDS = ["bytes", "bytes, cut", "bytes, space", "always", "first", "never", "unigram"]


@functools.cache
def tokenizer_of(kind, normalizer, rstrip=False):
    """A tokenizer of a kind; its control tokens may take the spaces behind them."""
    normal = NORMALIZERS[normalizer]
    byte_level = kind.startswith("bytes")
    model = models.Unigram() if kind == "unigram" else models.BPE(unk_token="<unk>")
    raw = Tokenizer(model)
    if normal is not None:
        raw.normalizer = normal
    if byte_level:
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=kind == "bytes, space", use_regex=kind == "bytes, cut"
        )
        raw.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        scheme = "always" if kind == "unigram" else kind
        raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        raw.decoder = decoders.Metaspace(prepend_scheme=scheme)
        alphabet = sorted({*"".join(WORDS), *map(chr, range(33, 127)), "\n", "\u2581"})
    options = {"special_tokens": CONTROL, "initial_alphabet": alphabet}
    options |= {"vocab_size": 420, "show_progress": False}
    if kind == "unigram":
        trainer = trainers.UnigramTrainer(unk_token="<unk>", **options)
    else:
        trainer = trainers.BpeTrainer(**options)
    raw.train_from_iterator(WORDS * 4, trainer)
    if rstrip:
        raw.add_special_tokens([AddedToken(text, rstrip=True) for text in CONTROL])
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
    st.booleans(),
    conversations,
)
@settings(max_examples=30, deadline=None)
def test_pieces_are_the_whole_or_the_tokenizer_is_refused(
    template, kind, normalizer, rstrip, messages
):
    renderer = renderer_of(template, kind, normalizer, rstrip)
    if renderer is None:
        assert (kind, normalizer, rstrip) != ("bytes", "none", False)
        return
    tokenizer = tokenizer_of(kind, normalizer, rstrip)
    text = renderer.render(messages, add_generation_prompt=True)
    whole = tokenizer.encode(text, add_special_tokens=False)
    assert renderer.prompt_ids(messages) == whole


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: Path(path).stem)
@pytest.mark.parametrize("kind", ["bytes", "bytes, cut"])
def test_byte_level_tokenizers_without_a_normalizer_are_never_refused(kind, template):
    assert renderer_of(template, kind, "none") is not None


@pytest.mark.parametrize(
    "kind",
    [
        ("always", "none"),
        ("first", "none"),
        ("unigram", "none"),
        ("never", "prepend"),
        ("bytes, space", "none"),
        ("bytes", "none", True),
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
