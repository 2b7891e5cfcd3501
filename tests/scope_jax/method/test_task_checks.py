"""Checks of tasks beside the gates: what is counted, and what is folded."""

from scope_jax.method.judge import parse_answer, parse_rubrics
from scope_jax.method.task_checks import Check, evidence_share

DOCUMENTS = "(Title: Bern)\nBern lies by the  Aare.\n\n---\n\nIt has 3 <old> towers."


def test_evidence_counts_word_for_word_with_spaces_and_case_folded():
    quoted = ("bern lies BY\nthe Aare.", "It has 3 &lt;old> towers", "4 towers", "")
    assert evidence_share(quoted, DOCUMENTS) == 0.5
    assert evidence_share((), DOCUMENTS) == 0


def test_evidence_is_read_beside_the_rubric_and_changes_nothing_else():
    given = [
        '<rubric priority="critical" evidence="lies by the Aare">Names it.</rubric>',
        "<rubric evidence='no'>Says so.</rubric>",
        '<rubric evidence="  " priority=bonus>Ends.</rubric>',
    ]
    found = parse_rubrics(f"<rubrics>{''.join(given)}</rubrics>")
    assert found.valid
    assert found.evidence == ("lies by the Aare", "", "")
    assert [r.priority for r in found.rubrics] == ["critical", None, "bonus"]
    assert [r.text for r in found.rubrics] == ["Names it.", "Says so.", "Ends."]


def test_a_check_passes_at_the_number_it_needs():
    assert Check("evidence", 0.5, 0.5).passed
    assert not Check("evidence", 0.49, 0.5).passed
    line = Check("evidence", 2 / 3, 0.5).line
    assert line == "evidence 0.6667 of 0.5 needed: passed"


def test_the_judge_s_answer_is_its_last_one_outside_of_its_thinking():
    said = "<think><answer>draft</answer></think><answer>a</answer> <answer>b</answer>"
    assert parse_answer(said) == "b"
    assert parse_answer("<think><answer>a</answer>") == ""
    assert parse_answer("plain") == ""
