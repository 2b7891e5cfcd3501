"""The small world's tokenizer: byte-level BPE in which every name is one token.

Names and relation phrases are whole tokens wherever they stand, also inside the JSON of
a tool call. Between them byte-pair merges may cross spaces (never a line end), so that
the fixed wording of prompts, tags and guidance costs a token or two, not ten: short
contexts are what lets a model of a million parameters learn the jobs in minutes. Any
other text falls back to bytes. Tags are ordinary text; only ChatML's marks are special.
"""

from collections.abc import Iterable, Iterator

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from scope_jax.small_world.world import RELATIONS, World

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

# Append-only: nothing that was said is ever rendered differently later. The prompts
# name the tool; a schema would only lengthen the context: ``tools`` is not shown.
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if message.role == 'tool' %}"
    "{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}"
    "{{- '<|im_start|>user' }}"
    "{%- endif %}"
    "{{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}"
    "{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}"
    "{{- '<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- else %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content }}"
    "{%- for call in message.tool_calls or [] %}"
    "{%- set call = call.function or call %}"
    "{%- if not loop.first or message.content and message.content[-1] != '\\n' %}"
    "{{- '\\n' }}"
    "{%- endif %}"
    '{{- \'<tool_call>\\n{"name": "\' + call.name + \'", "arguments": \' }}'
    "{%- if call.arguments is string %}{{- call.arguments }}"
    "{%- else %}{{- call.arguments | tojson }}{%- endif %}"
    "{{- '}\\n</tool_call>' }}"
    "{%- endfor %}"
    "{{- '<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def whole_tokens(world: World) -> list[str]:
    """Names and relation phrases: tokens by themselves wherever they occur."""
    relations = [name for found in RELATIONS.values() for name in found]
    phrases = [f"'s {name}{link}" for link in (" is ", ": ") for name in relations]
    return phrases + [entity.name for entity in world.entities]


def train(world: World, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer for ``world`` whose merges are learnt from ``texts``.

    Args:
      world: whose names become tokens.
      texts: rendered conversations of every job; their wording becomes merges.
    """
    whole = whole_tokens(world)
    tokenizer = Tokenizer(models.BPE())
    # A piece ends with its line: "user\n" + content is cut alike whether the two are
    # encoded together or apart.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[^\n]*\n|[^\n]+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,  # 256 bytes and the merges
        min_frequency=8,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_between(texts, whole), trainer)
    tokenizer.add_special_tokens([PAD, START, END])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in whole])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        model_max_length=1 << 14,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _between(texts: Iterable[str], whole: list[str]) -> Iterator[str]:
    """The pieces of ``texts`` between whole and special tokens."""
    splitter = Tokenizer(models.BPE())
    splitter.add_tokens([AddedToken(t, normalized=False) for t in whole])
    splitter.add_special_tokens([PAD, START, END])
    atoms = set(whole) | {PAD, START, END}
    splitter.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    for text in texts:
        end = 0
        found = splitter.encode(text)
        for token, (start, stop) in zip(found.tokens, found.offsets, strict=True):
            if token in atoms:
                if start > end:
                    yield text[end:start]
                end = stop
        if end < len(text):
            yield text[end:]
