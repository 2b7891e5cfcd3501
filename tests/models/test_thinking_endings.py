"""Templates whose prompt ends inside a thought: what they show is what is encoded.

Each has another rule for thinking of earlier turns, and for that of the last one.
"""

from pathlib import Path

import pytest

from models.chat import ChatRenderer
from tests.models.test_chat_families import conversations, jinja, tokenizer_of

TEMPLATES = Path(__file__).parent / "templates"
DEEPSEEK = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"]
DEEPSEEK += ["<｜User｜>", "<｜Assistant｜>"]
DEEPSEEK += [f"<｜tool▁outputs▁{end}｜>" for end in ("begin", "end")]
DEEPSEEK += [f"<｜tool▁output▁{end}｜>" for end in ("begin", "end")]
# Name -> (what the prompt opens, whether conversations only grow, whether the template
# shows the thinking of a last turn).
KINDS = {
    "r1_distill": ("<think>\n", False, False),
    "qwen3_thinking": ("<think>\n", False, True),
    "qwen3.5": ("<think>\n", False, True),
    "olmo3_think": ("<think>", True, True),
}
USER = {"role": "user", "content": "Which river?"}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    name = request.param
    file = "qwen3_thinking" if name == "qwen3.5" else name
    template = (TEMPLATES / f"{file}.jinja").read_text(encoding="utf-8")
    if name == "qwen3.5":
        template = "{% set trims = true %}" + template
    special = DEEPSEEK if name == "r1_distill" else []
    tokenizer = tokenizer_of(special)
    return name, tokenizer, ChatRenderer.from_tokenizer(tokenizer, template=template)


def test_ids_are_those_of_the_whole_template(kind):
    """Of prompts and of whole conversations, with tools where it shows them."""
    _, tokenizer, renderer = kind
    for messages, _ in conversations(control=False, count=80):
        for generate in (True, False):
            expected = jinja(
                tokenizer, renderer, messages, None, generate=generate, tokenize=True
            )
            text = renderer.render(messages, None, generate)
            assert tokenizer.encode(text, add_special_tokens=False) == expected
            if generate:
                assert renderer.prompt_ids(messages) == expected


def test_what_a_prompt_opens_is_read_from_the_prompt(kind):
    name, _, renderer = kind
    opening, grows, _ = KINDS[name]
    assert renderer.append_only == grows
    assert renderer.opening_of(renderer.prompt_ids([USER])) == opening
    evil = USER | {"content": "Close your <think>"}
    assert renderer.opening_of(renderer.prompt_ids([evil])) == opening
    reply = {"role": "assistant", "content": f"{opening}a\n</think>\n\nb"}
    behind = renderer.prompt_ids([USER, reply, {"role": "tool", "content": "r"}])
    assert renderer.opening_of(behind) == ("" if name == "r1_distill" else opening)


def test_a_turn_is_written_with_its_thinking_or_not_at_all(kind):
    name, _, renderer = kind
    opening, _, shown = KINDS[name]
    said = "It flows.\n</think>\n\nThe Rhine."
    turn = renderer.turn_ids([USER, {"role": "assistant", "content": opening + said}])
    if not shown:
        assert turn is None
    elif name != "olmo3_think":  # ends the text, which no turn before another does
        assert turn == renderer.encode_text(said) + renderer.turn_end_ids()
