"""The default prompts say all that the specification wants said, and in what order."""

import difflib
import itertools
import os
import re
from pathlib import Path

import pytest

from scope_jax.method import judge, prompts
from scope_jax.method.types import TOOL_FORMATS, Rubric

CALLS = {
    "search_r1": "<search>your query</search>",
    "tool_call": "`search` function",
    "function_calls_xml": '<function_calls>search(query="your query")</function_calls>',
}
# What must be conveyed (spec 3.2, 3.4, 3.5, 3.7, 6, 7, 8): words that convey it.
SAYS = {
    "challenger": {
        "hard, long-form, from the document and what is retrieved": (
            r"hard research tasks.*demanding long-form task of the given type from the "
            r"document and from what you retrieved"
        ),
        "the document under its heading": r"\n## Source Document\nDOC\n\n## ",
        "type name, then description": r"planning: Asks for a plan",
        "exactly N search turns": r"exactly \*\*3\*\* search turns",
        "one specific entity of the previous results": (
            r"one specific entity.*results name"
        ),
        "not the document's topic": r"never about the document's own topic",
        "the task only when told": r"only after you are told that the searches are",
        "unique facts of every search": (
            r"facts from every search turn that stand nowhere"
        ),
        "else invalid": r"without one of them is invalid",
        "a search turn thinks about results and what is next": (
            r"Search Turn\n<think>.*results.*entity or fact.*</think>"
        ),
        "checks in thinking": r"Final Turn\n.*check.*<think>",
        "each search gave an essential fact, all needed": r"essential fact.*need all",
        "entities identifiable": r"full names, a qualifier.*acronyms spelled out",
        "nothing leaks": r"facts you found, no dates, figures or secondary names",
        "retrieval is needed": r"Is retrieval needed",
        "output format stated": r"what form the answer should take",
        "in English": r"in English",
        "a task that withholds": (
            r"holding back.*found by searching.*<task>your task</task>"
        ),
    },
    "solver": {
        "the job": r"Your job is to answer the question",
        "new information is reasoned about": (r"<think> block.*everything that is new"),
        "missing knowledge is searched for": r"knowledge is missing, look it up",
        "results come back": r"results come back",
        "a budget, to spend with care": r"at most 4 searches\. Spend them with care",
        "a brief answer, a word as an example": (
            r"enough.*between <answer> and </answer>, as briefly.*"
            r"<answer>Lisbon</answer>"
        ),
        "the question last": r"\n\nQuestion: QUESTION\Z",
    },
    "rubric": {
        "3 to 5 positive rubrics of the core": (
            r"3 to 5 rubrics.*excellence at the core"
        ),
        "one sentence, one requirement": (
            r"one requirement, positively.*one sentence.*25"
        ),
        "verbs": (
            r"Addresses, Applies, Compares, Demonstrates, Evaluates, Explains, "
            r"Identifies, Incorporates, Integrates, Provides, Supports, Synthesizes"
        ),
        "priorities, a line each": r"- critical: .*\n- important: .*\n- bonus: ",
        "specific": r"specific to this task",
        "discriminating": r"separates excellent",
        "judgeable": r"judged objectively",
        "type, task, documents": r"DOCS.*of type planning.*TASK",
        "exactly this output": (
            r"exactly this form, and nothing else.*<rubrics>\n<rubric pr"
        ),
    },
    "grader": {
        "strict, one rubric": r"strict expert examiner.*one rubric",
        "1 only if completely met": (
            r"1 only if the response meets the rubric completely"
        ),
        "refusals and partial answers": (
            r"refusal, an empty response and a partial answer"
        ),
        "in doubt 0, no partial credit": (
            r"in doubt, give 0\. There is no partial credit"
        ),
        "quote, why, what was missing": r"Quote the part.*why it does.*what is missing",
        "one score block and nothing else": r"one score block, .* and nothing else",
        "an example": r"Example.*\n<score>1</score>",
        "blocks": (
            r"<prompt>\nTASK\n</prompt>\n\n<response>\nANSWER\n</response>\n\n"
            r"<rubric>\n1\. RUBRIC\n</rubric>"
        ),
    },
    "gate_entity": {
        "somebody who never heard of it": r"never heard of the subject",
        "fails only if ambiguous": r"0 only if a key name stays ambiguous",
        "in context": r"in the context of the whole task",
        "passing": (
            r"singles out.*title of a work.*complete name.*concept.*famous or spelled"
        ),
        "failing": r"namesakes.*obscure acronym.*no proper noun",
        "reasoning, then a score": (
            r"<think> and </think>.*<score>1</score> or <score>0<"
        ),
    },
    "gate_source_relevance": {
        "connects": r"1 if the task's subject matter connects.*needs other sources",
        "else": r"0 if there is no connection, or if the task would fit any document",
        "an example of each": r"score is 1\..*score is 0\.",
        "blocks": r"<document>\nDOC\n</document>\n\n<task>\nTASK\n</task>",
        "reasoning, then a score": (
            r"<think> and </think>.*<score>1</score> or <score>0<"
        ),
    },
    "turns": {
        "after_search": (
            r"2 of 3 searches left.*person, place or organisation.*introduced"
        ),
        "no_result": r"no search in the right format.*2 of 3 searches left.*exactly in",
        "final": r"All 3 searches are used.*output the task",
        "final_xml": r"All 3 searches are used.*inside <task> and </task>",
        "forced_answer": r"searches are used up.*final answer.*<answer> and </answer>",
        "invalid_action": (
            r"invalid\. To search,.*To answer,.*<answer>your answer</answer>"
        ),
        "grade_retry": r"No score could be read.*only a score block.*1 .*0",
    },
}


def filled(tool_format="search_r1"):
    p = prompts.load("default", tool_format)
    counts = {"remaining": 2, "target": 3}
    found = {
        "challenger": p.challenger("DOC", "planning", 3),
        "solver": p.solver("QUESTION", 4),
        "rubric": p.rubric("TASK", "planning", "DOCS"),
        "grader": p.grade("TASK", "ANSWER", "1. RUBRIC"),
        "grader_thinking": p.grade("TASK", "ANSWER", "1. RUBRIC", thinking=True),
        "gate_entity": p.gate("entity", task="TASK", document="DOC"),
        "gate_source_relevance": p.gate(
            "source_relevance", task="TASK", document="DOC"
        ),
    }
    texts = {stem: messages[0]["content"] for stem, messages in found.items()}
    names = ("after_search", "no_result", "final", "final_xml")
    turns = {name: p.guidance(name, **counts) for name in names} | {
        "forced_answer": p.forced_answer(),
        "invalid_action": p.invalid_action(),
        "grade_retry": p.grade_retry((), "")[-1]["content"],
    }
    return texts, turns


@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
def test_every_prompt_says_what_it_must(tool_format):
    texts, turns = filled(tool_format)
    for stem, points in SAYS.items():
        for point, words in points.items():
            for text in (
                [turns[point]]
                if stem == "turns"
                else [t for name, t in texts.items() if name.startswith(stem)]
            ):
                assert re.search(words, text, re.DOTALL), (stem, point)
    call = CALLS[tool_format]
    assert call in texts["challenger"] and call in texts["solver"]
    assert call in turns["invalid_action"]
    informed = "between <information> and </information>" in texts["solver"]
    assert informed == (tool_format != "tool_call")
    assert "task" not in turns["invalid_action"]  # (spec Q34)


def test_graders_differ_in_how_reasoning_is_asked_for():
    texts, _ = filled()
    assert "<think>" in texts["grader"]
    assert "<think>" not in texts["grader_thinking"]


def test_six_examples_of_which_four_pass():
    texts, _ = filled()
    verdicts = re.findall(
        r'^- "[^"]+" The score is ([01])\.$', texts["gate_entity"], re.M
    )
    assert verdicts == ["1"] * 4 + ["0"] * 2


def test_the_challenger_s_variants_differ_in_the_search_line_only():
    first = filled("search_r1")[0]["challenger"].splitlines()
    for tool_format in ("tool_call", "function_calls_xml"):
        other = filled(tool_format)[0]["challenger"].splitlines()
        changed = [line for line in difflib.ndiff(first, other) if line[0] in "+-"]
        assert len(changed) == 2, changed


def test_task_types_have_a_short_description_and_two_or_three_examples():
    p = prompts.load("default", "search_r1")
    for name in prompts.TASK_TYPES:
        text = p.templates[f"tasks/{name}"].text
        description, _, examples = text.partition("\nExamples:\n")
        sentences = re.findall(r"[.?](?:\s|\Z)", description)
        lines = [line for line in examples.splitlines() if line.startswith("- ")]
        if name == "short_form_qa":
            assert not examples and "at most 10 words" in description
        else:
            assert 1 <= len(sentences) <= 2 and 2 <= len(lines) <= 3, name


@pytest.mark.quirk(46)
def test_the_examiner_sees_no_document():
    template = prompts.load("default", "search_r1").templates["grader"].text
    assert set(re.findall(r"\{(\w+)\}", template)) == {"prompt", "response", "rubric"}


def shared(texts):
    """How many characters the texts have in common from their start."""
    columns = zip(*texts, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda c: len(set(c)) == 1, columns))


@pytest.mark.parametrize("thinking", [False, True])
def test_calls_share_all_but_their_own_end(thinking):
    """Rubrics of an answer, answers of a task, tasks of a document, from the start."""
    p = prompts.load("default", "search_r1")
    rubrics = [Rubric("Identifies A."), Rubric("Explains B.")]

    def grades(task, answer):
        asked = judge.grade_prompts(p, task, answer, rubrics, thinking=thinking)
        return [messages[0]["content"] for messages in asked]

    one, two = grades("TASK", "ANSWER")
    assert one[: shared([one, two])].endswith("ANSWER\n</response>\n\n<rubric>\n")
    assert len(one) - shared([one, two]) < 120
    other, _ = grades("TASK", "other")
    assert one[: shared([one, other])].endswith("TASK\n</prompt>\n\n<response>\n")
    another, _ = grades("other", "ANSWER")
    assert one[: shared([one, another])].endswith("<score>1</score>\n\n<prompt>\n")

    def gate(task):
        made = p.gate("source_relevance", task=task, document="DOC")
        return made[0]["content"]

    assert gate("A")[: shared(map(gate, "AB"))].endswith("DOC\n</document>\n\n<task>\n")

    def rubric(task):
        documents = judge.documents_text("SOURCE", [task])
        return p.rubric(task, "writing", documents)[0]["content"]

    assert rubric("A")[: shared(map(rubric, "AB"))].endswith("SOURCE\n\n---\n\n")


@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
def test_the_challenger_s_prompt_leaves_room_for_its_document(tool_format):
    folder = Path(os.environ.get("SCOPE_MODELS", "")) / "qwen3-tokenizer"
    if not (folder / "tokenizer.json").is_file():
        pytest.skip("no qwen3-tokenizer in the folder $SCOPE_MODELS")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    p = prompts.load("default", tool_format)
    for name in prompts.TASK_TYPES:
        ids = tokenizer.apply_chat_template(
            list(p.challenger("", name, 3)),
            tools=p.tools(),
            add_generation_prompt=True,
            return_dict=False,
        )
        assert len(ids) + 256 <= 1024
