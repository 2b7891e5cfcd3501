"""bench.py speculation: what is looked up, what is accepted, what a run recorded."""

import argparse
import json
import random

import pytest

from models import hf
from models.chat import ChatRenderer
from models.errors import UserError
from scope_jax import prompts
from scope_jax.benchmarks import speculation
from scope_jax.benchmarks.recorded import Recorded, Sampled
from scope_jax.benchmarks.speculation import Count, sources, speculate
from scope_jax.demo import assets


def of(group, longest, shortest, length):
    return speculation.replay(group)[longest, shortest, length]


def completion(text, start):
    return Sampled("Solver", 1.0, tuple(map(ord, text)), start)


def test_the_source_is_behind_the_latest_earlier_occurrence():
    #        0123456789
    ids = "abcxabdyabcq"
    one, two, three, _ = sources(ids, 8)
    # Before 9 stands "a", last seen at 4; before 10 "ab", last seen at 4 and 5.
    assert one[8:] == [0, 5, 6, 3]
    assert two[8:] == [0, 0, 6, 3]
    assert three[8:] == [0, 0, 0, 3]  # "abc" at 0, 1 and 2
    assert one[:8] == [0] * 8  # the prompt is not looked up


def test_sources_are_those_of_a_search_through_the_text():
    text = "".join(random.Random(0).choices("ab", k=60))
    found = sources(text, 20)
    for n in range(1, 5):
        for at in range(20, 60):
            begins = text.rfind(text[at - n : at], 0, at - 1)
            assert found[n - 1][at] == (begins + n if begins >= 0 else 0), (n, at)


def test_a_quote_is_accepted_as_far_as_it_goes():
    ids, start = "-abcdefg|abcdxefgh", 9  # its "a" comes with the prompt
    chosen = sources(ids, start)[0]
    # a -> "bc", d is sampled; d -> "ef" is refused: x; x was never seen: e;
    # e -> "fg", h.
    assert speculate(ids, start, chosen, 2) == Count(steps=4, drafts=3, tokens=8)
    # a -> "b", c; c -> "d", x; x was never seen: e; e -> "f", g; g -> "|" is refused.
    assert speculate(ids, start, chosen, 1) == Count(steps=5, drafts=4, tokens=8)


def test_a_text_that_repeats_itself_is_its_own_draft():
    ids = "|aaaaaaaaa"
    chosen = sources(ids, 1)[0]
    # The first a was never seen: a. One a -> "aaa", a. Six of them -> "aaa", the end.
    assert speculate(ids, 1, chosen, 3) == Count(steps=3, drafts=2, tokens=8)
    ids = "|abababab"
    chosen = sources(ids, 1)[1]
    # b; "ab" was never seen: a; "ba" neither: b; "ab" -> "abab", though only two
    # tokens lie between it and its earlier occurrence.
    assert speculate(ids, 1, chosen, 8) == Count(steps=4, drafts=1, tokens=7)


def test_no_match_is_one_token_a_step():
    group = [completion("abcdefgh", 4)]
    for key, count in speculation.replay(group).items():
        assert count == Count(steps=3, drafts=0, tokens=3), key


def test_a_draft_that_matches_at_the_very_end_brings_no_more_than_is_left():
    # a comes with the prompt, b, c and d are left; the source goes on with "efgh".
    group = [completion("abcdefgh|abcd", 9)]
    assert of(group, 1, 1, 2) == Count(steps=1, drafts=1, tokens=3)  # "bc", d
    assert of(group, 1, 1, 3) == Count(steps=1, drafts=1, tokens=3)  # "bcd", no more
    assert of(group, 1, 1, 8) == Count(steps=1, drafts=1, tokens=3)
    # "|a" was never seen: b; "ab" -> "cd".
    assert of(group, 2, 2, 8) == Count(steps=2, drafts=1, tokens=3)


def test_longer_grams_are_tried_first():
    # b, which comes with the prompt, was last followed by z; "ab" was by y.
    group = [completion("aby-bz|aby.", 8)]
    # b -> "z" is refused: y; y -> "-" is refused: "."
    assert of(group, 1, 1, 1) == Count(steps=2, drafts=2, tokens=2)
    assert of(group, 2, 1, 1) == Count(steps=1, drafts=1, tokens=2)  # "y", "."
    # b was never seen: y; y -> ".", "." By twos only "y." was seen: "z" is refused.
    group = [completion("-y.z|by..", 5)]
    assert of(group, 1, 1, 1) == Count(steps=2, drafts=1, tokens=3)
    assert of(group, 2, 2, 1) == Count(steps=3, drafts=1, tokens=3)


def test_a_completion_of_one_token_takes_no_step():
    for count in speculation.replay([completion("abcd", 3)]).values():
        assert count == Count()


DOCUMENT = "(Title: Juvorn)\nJuvorn's river is Bisela."
RESULT = "Bisela's mouth is Rucorn."
SAMPLING = {"temperature": 0.5, "max_new_tokens": 96}
CONFIG = {
    "model": {"path": "demo", "template": None},
    "prompts": "small_world",
    "tool_format": "search_r1",
    "challenger_train": {"sampling": SAMPLING},
    "judge": {
        "thinking": False,
        "grade_temperature": {"challenger": 0.25},
        "grade_tokens": 96,
        "rubric_temperature": 0.0,
        "rubric_tokens": 4,
        "gate_temperature": 0.0,
        "gate_tokens": 96,
    },
}


def write(folder, record, **settings):
    file = folder / "rollouts" / "iter_1" / "challenger" / "step_0001.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(record) + "\n")
    (folder / "config.json").write_text(json.dumps(CONFIG | settings))


@pytest.fixture
def recorded(tmp_path):
    asked = prompts.load("small_world", "search_r1")
    record = {
        "tokens": 99,
        "messages": [
            *asked.challenger(DOCUMENT, "writing", 1),
            {"role": "assistant", "content": "<search>Bisela</search>"},
            {"role": "user", "content": f"<information>{RESULT}</information>"},
            {"role": "assistant", "content": "No task."},
        ],
        "trace": {
            "task": "Report it.",
            "task_type": "writing",
            "gates_raw": {"entity": "<score>1</score>"},
            "rubrics": ["Identifies it."],
            "rubrics_raw": "<rubrics>as they are</rubrics>",
            "attempts": [
                {
                    "answer": "Rucorn",
                    "judge": [{"raw": "yes", "asked_again_after": "what?"}],
                },
                {"answer": "", "judge": []},
            ],
        },
    }
    write(tmp_path, record)
    return tmp_path


def test_what_was_sampled_is_read_with_what_stood_before_it(recorded):
    ((stage, tokens, found),) = Recorded(recorded).completions()
    assert (stage, tokens) == ("challenger", 99)
    renderer = ChatRenderer.from_tokenizer(hf.load_tokenizer(assets.model_path()))
    end = renderer.decode(renderer.stop_ids[:1])
    said = [
        (one.role, one.temperature, renderer.decode(one.ids[one.start :]))
        for one in found
    ]
    assert said == [
        ("Challenger", 0.5, "<search>Bisela</search>"),  # ended by its stop string
        ("Challenger", 0.5, f"No task.{end}"),
        ("judge, gates", 0.0, f"<score>1</score>{end}"),
        ("judge, rubrics", 0.0, "<rubrics>as they are</rubrics>"),  # by its limit
        ("judge, grades", 0.25, f"what?{end}"),
        ("judge, grades", 0.25, f"yes{end}"),
    ]
    before = [renderer.decode(one.ids[: one.start]) for one in found]
    assert all(text.endswith("<|im_start|>assistant\n") for text in before)
    assert DOCUMENT in before[0] and RESULT not in before[0]
    assert RESULT in before[1] and "<search>Bisela</search>" in before[1]
    assert DOCUMENT.strip() in before[3] and RESULT in before[3]
    assert "<information>" not in before[3]
    assert "Rucorn" in before[4] and "what?" not in before[4] and "what?" in before[5]


def test_the_example_turns_of_a_prompt_set_were_not_sampled(tmp_path):
    opening = prompts.load("few_shot", "search_r1").challenger(DOCUMENT, "writing", 1)
    assert any(message["role"] == "assistant" for message in opening)
    said = {"role": "assistant", "content": "A task."}
    write(tmp_path, {"messages": [*opening, said]}, prompts="few_shot")
    ((_, _, (turn,)),) = Recorded(tmp_path).completions()
    text = hf.load_tokenizer(assets.model_path()).decode(turn.ids[turn.start :])
    assert text.startswith("A task.")


def test_results_in_json_are_shown_to_the_writer_of_rubrics_as_text(tmp_path):
    opening = prompts.load("few_shot", "tool_call").challenger(DOCUMENT, "writing", 1)
    result = {"role": "tool", "content": json.dumps({"result": "He was\n60."})}
    trace = {"task": "Do.", "task_type": "writing", "rubrics_raw": "None."}
    record = {"messages": [*opening, result], "trace": trace}
    write(tmp_path, record, prompts="few_shot", tool_format="tool_call")
    ((_, _, (rubrics,)),) = Recorded(tmp_path).completions()
    asked = hf.load_tokenizer(assets.model_path()).decode(rubrics.ids[: rubrics.start])
    assert f"{DOCUMENT}\n\n---\n\nHe was\n60." in asked


def test_the_report_has_every_role(recorded):
    parser = argparse.ArgumentParser()
    speculation.add_arguments(parser)
    args = parser.parse_args(["--rollouts", str(recorded)])
    args.peer = []
    notes = speculation.run(args).notes
    name = recorded.name
    assert notes[f"{name}, challenger: tokens encoded, sampled"][1] == 99
    grades = notes[f"{name}, judge, grades, temperature 0.25"]
    assert grades["completions"] == 2
    assert len(grades["tokens a step, k 1 .. 8"]["n 4 to 1"]) == 8


def test_a_folder_without_rollouts_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match="holds no rollouts") as caught:
        Recorded(tmp_path)
    assert "\n" not in str(caught.value)
