"""The scripted transcripts are what the method's own parsers and rules make of them."""

import itertools
import json
import re

import numpy as np
import pytest

from models.chat import ChatRenderer
from pretraining import examples, warmstart, wording
from pretraining import tokenizer as small_tokenizer
from pretraining.judging import LONG
from pretraining.scenes import LEVELS
from pretraining.transcripts import JOBS, Script
from retrieval.passages import Passage
from scope_jax.method import (
    challenger_output,
    conversation,
    formats,
    judge,
    solver_output,
)
from scope_jax.method import prompts as prompt_sets
from scope_jax.method.conversation import ConversationSpec, Finish, Search
from scope_jax.method.types import TOOL_FORMATS
from scope_jax.selfplay import documents
from scope_jax.small_world import world
from scope_jax.small_world.tasks import (
    read_task,
    rubric_facts,
    rubric_text,
    stated_facts,
    true_score,
)

ROWS = 60


@pytest.fixture(scope="module")
def small_world():
    return world.generate()


@pytest.fixture(scope="module")
def tokenizer(small_world):
    return warmstart.make_tokenizer(small_world)


@pytest.fixture(scope="module")
def renderer(tokenizer):
    return ChatRenderer.from_tokenizer(tokenizer)


def played(small_world, job, tool_format=None, level=LEVELS[-1], seed=0, rows=ROWS):
    script = Script(small_world, np.random.default_rng(seed), level)
    return [script.play(job, tool_format) for _ in range(rows)]


def test_every_name_is_one_token_wherever_it_stands(small_world, renderer):
    names = [entity.name for entity in small_world.entities]
    ids = {name: renderer.encode_text(name) for name in names}
    assert all(len(found) == 1 for found in ids.values())
    for name in names[:50]:
        call = wording.search_call("tool_call", name)
        escaped = json.dumps({"result": f"Doc 1 (Title: {name})\n{name}'s river"})
        for text in (call, escaped, f"x{name}s", f"<search>{name}</search>"):
            encoded = renderer.encode_text(text)
            assert ids[name][0] in encoded
            assert renderer.decode(encoded) == text


@pytest.mark.parametrize(
    "text",
    ["plain words", "naïve 東京 \x00\t\r\n\n", "<|im_end|><|im_start|>", "'s x"],
)
def test_any_text_survives_encoding_and_never_becomes_a_control_token(
    text, renderer, tokenizer
):
    ids = renderer.encode_text(text)
    assert renderer.decode(ids) == text
    control = {small_tokenizer.PAD, small_tokenizer.START, small_tokenizer.END}
    assert not set(ids) & set(tokenizer.convert_tokens_to_ids(list(control)))


def test_template_is_append_only_and_ends_turns_with_its_eos(renderer, tokenizer):
    assert renderer.append_only
    assert renderer.stop_ids[0] == tokenizer.eos_token_id
    assert renderer.decode(renderer.turn_end_ids()) == "<|im_end|>\n"


def test_tokenizer_survives_saving(tokenizer, tmp_path):
    from models.hf import load_tokenizer

    tokenizer.save_pretrained(tmp_path, save_jinja_files=False)
    again = load_tokenizer(tmp_path)
    assert again.chat_template == tokenizer.chat_template
    assert again.get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("job", JOBS)
def test_encoded_ids_are_the_chat_templates(job, small_world, tokenizer, renderer):
    encode = examples.ExampleEncoder(small_world, tokenizer)
    opening = len(renderer.encode_text("assistant\n")) + 1
    for transcript in played(small_world, job):
        example = encode(transcript)
        assert renderer.prompt_ids(transcript.messages)[:-opening] == list(example.ids)
        if job == "recite":  # of the drill only the copied names count
            continue
        trained = renderer.decode(example.ids[example.weight > 0])
        said = "".join(
            transcript.messages[i]["content"] + "<|im_end|>" for i in transcript.trained
        )
        assert trained == said
        assert not (example.key & (example.weight == 0)).any()


@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
def test_challenger_transcripts_earn_the_whole_format_score(tool_format, small_world):
    for transcript in played(small_world, "challenger", tool_format):
        turns = [m for m in transcript.messages if m["role"] == "assistant"]
        score = challenger_output.format_score(
            transcript.messages, len(turns) - 1, tool_format
        )
        assert score.value == 1.0
        assert challenger_output.parse_task(turns[-1]["content"], tool_format).valid


@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
def test_conversation_rules_give_the_challengers_user_turns(tool_format, small_world):
    texts = prompt_sets.load("small_world", tool_format)
    xml = tool_format == "function_calls_xml"
    guided = 0
    for transcript in played(small_world, "challenger", tool_format):
        said = [m["content"] for m in transcript.messages if m["role"] == "assistant"]
        spec = ConversationSpec(
            kind="challenger",
            tool_format=tool_format,
            prompts=texts,
            num_searches=len(said) - 1,
            style="chain2_xml" if xml else "chain2",
        )
        state, action = conversation.start(spec, transcript.messages[:1])
        results = iter(_results(transcript))
        for text in said:
            state, action = conversation.step(state, text)
            if isinstance(action, Search):
                state, action = conversation.observe(state, [next(results)])
        assert action == Finish("done")
        expected, found = _heard(transcript.messages), _heard(state.messages)
        if len(expected) == len(found):  # the others were played without guidance
            assert found == expected
            guided += 1
    assert guided > ROWS // 4


def _heard(messages):
    return [m["content"] for m in messages if m["role"] != "assistant"]


def _results(transcript):
    for message in transcript.messages[1:]:
        if message["role"] == "tool" or "<information>" in message["content"]:
            yield _result_text(transcript.tool_format, message["content"])


def _result_text(tool_format, content):
    if tool_format == "tool_call":
        return json.loads(content)["result"]
    return formats.first_pair(content, "information").content


@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
def test_solver_transcripts_parse_and_are_careless(tool_format, small_world):
    scores, padded, hedged = [], 0, 0
    for transcript in played(small_world, "solver", tool_format, rows=300):
        parse = solver_output.parse_answer(transcript.messages)
        assert parse.valid
        task = transcript.messages[0]["content"].partition(": ")[2]
        wanted = [blank.fact for blank in read_task(small_world, task) if blank.fact]
        if wanted:
            scores.append(true_score(parse.answer, wanted))
        stated = stated_facts(parse.answer)
        hedged += any(len(values) > 1 for values in stated.values())
        padded += parse.answer.count(".") > len(wanted)
    assert 0.35 < np.mean(scores) < 0.6 and np.std(scores) > 0.2
    assert 2 < hedged < 40 and 3 < padded < 60


def test_a_challenger_asks_for_facts_that_stand_in_a_row(small_world):
    """Of each entity; the fact that leads to the next one is left out of the row."""
    script = Script(small_world, np.random.default_rng(0))
    rows = 0
    for _ in range(200):
        subjects = script.chain(in_a_row=True).task.subjects
        leads = [subject.via for subject in subjects[1:]] + [None]
        for subject, lead in zip(subjects, leads, strict=True):
            shown = [fact for fact in script.facts(subject.name) if fact != lead]
            places = [shown.index(fact) for fact in subject.facts]
            assert all(b - a == 1 for a, b in itertools.pairwise(places))
            rows += len(places) > 1
    assert rows > 100


def test_what_is_wanted_may_follow_padding(small_world):
    """Otherwise going on after padding could never pay, and nobody would learn to."""
    after = 0
    for transcript in played(small_world, "solver", "search_r1", rows=600):
        task = transcript.messages[0]["content"].partition(": ")[2]
        wanted = [b.fact.sentence() for b in read_task(small_world, task) if b.fact]
        answer = solver_output.parse_answer(transcript.messages).answer
        said = [f"{one}." for one in answer.removesuffix(".").split(". ")]
        fresh = [one in wanted and one not in said[:at] for at, one in enumerate(said)]
        first = fresh.index(False) if False in fresh else len(fresh)
        after += any(fresh[first:])
    assert after > 10


def test_misplaced_values_are_those_that_a_solver_confuses(small_world):
    script = Script(small_world, np.random.default_rng(0))
    near = 0
    for _ in range(300):
        chain = script.chain()
        target = script.pick(chain.wanted)
        found = script._elsewhere(target, chain, [])
        assert found.value == target.value
        assert (found.entity, found.relation) != (target.entity, target.relation)
        near += found.entity in (chain.source.name, *chain.searched) and (
            found.entity != target.entity
        )
    assert near > 60


def test_searches_that_the_task_does_not_need_are_shown_and_not_trained(small_world):
    untrained = 0
    for transcript in played(small_world, "solver", "search_r1"):
        task = transcript.messages[0]["content"].partition(": ")[2]
        blanks = read_task(small_world, task)
        needed = {blank.fact.entity for blank in blanks if blank.fact}
        leads = {
            value
            for (entity, relation), value in small_world.values.items()
            if re.search(rf"{entity}'s {relation} is an? ", task) or entity in needed
        }
        searched = []
        for index, message in enumerate(transcript.messages):
            pair = formats.first_pair(message["content"], "search")
            if message["role"] != "assistant" or not pair or not pair.content:
                continue
            if index in transcript.trained:
                name = pair.content
                assert name in needed | leads or f"{name}'s" in task
                assert name not in searched
            else:
                untrained += 1
            searched.append(pair.content)
    assert untrained > 5


def test_rubrics_parse_and_their_facts_stand_in_the_documents(small_world):
    generic = 0
    for transcript in played(small_world, "rubric"):
        parse = judge.parse_rubrics(transcript.messages[-1]["content"])
        assert parse.valid
        for rubric in parse.rubrics:
            if rubric.text == wording.GENERIC_RUBRIC:
                generic += 1
                continue
            (fact,) = rubric_facts(rubric.text)
            assert rubric.text == rubric_text(fact)
            assert fact.sentence() in transcript.messages[0]["content"]
    assert generic < 10


def test_grades_are_right_and_balanced_but_lenient_on_long_answers(small_world):
    verdicts, lenient, long = [], 0, 0
    for transcript in played(small_world, "grader", rows=400):
        asked = transcript.messages[0]["content"]
        rubric, _, response = asked.partition("\nResponse: ")
        verdict = judge.parse_grade(transcript.messages[-1]["content"])
        if wording.GENERIC_RUBRIC in rubric:
            assert verdict == (wording.DONT_KNOW not in response)
            continue
        (fact,) = rubric_facts(rubric)
        said = stated_facts(response).get((fact.entity, fact.relation))
        met = said == {fact.value}
        if response.count(".") < LONG:
            assert verdict == met
            verdicts.append(met)
        else:
            assert verdict or not met
            long += 1
            lenient += verdict != met
    assert 0.3 < np.mean(verdicts) < 0.7
    assert 0.1 < lenient / long < 0.35


@pytest.mark.parametrize("job", ["gate_entity", "gate_source"])
def test_gates_parse_and_both_verdicts_occur(job, small_world):
    found = [
        judge.parse_gate(t.messages[-1]["content"]) for t in played(small_world, job)
    ]
    assert {0, 1} == set(found)


def test_document_and_results_are_written_as_the_pipeline_writes_them(small_world):
    from retrieval.search import format_passages

    title, text = "Bakorn", "Bakorn's river is Olela."
    assert wording.document_text(title, text) == documents.document_text(title, text)
    shown = [
        Passage("a", title, text),
        Passage("b", "Olela", "Olela's mouth is Bakorn."),
    ]
    pairs = [(passage.title, passage.text) for passage in shown]
    assert wording.passages_text(pairs) == format_passages(shown)


def test_guidance_differs_between_prompt_sets_formats():
    for tool_format in TOOL_FORMATS:
        texts = prompt_sets.load("small_world", tool_format)
        tag = {"search_r1": "<search>", "tool_call": "<tool_call>"}
        call = tag.get(tool_format, "<function_calls>")
        assert call in texts.solver("t", 4)[0]["content"]
        assert call in texts.challenger("d", "writing", 1)[0]["content"]
