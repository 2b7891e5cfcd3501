"""Cases of every benchmark, worked by hand: (row, what the judge says, score).

Scores are fractions as one writes them on paper. Rows are made in the form of the
public files by ``test_by_hand``.
"""

YES, NO = '{"explanation": "it does", "criteria_met": true}', '{"criteria_met": false}'

# What a judge says to one criterion, by a letter.
SAID = {
    "y": YES,
    "n": NO,
    "f": f"```json\n{YES}\n```",  # in a fence
    "F": f"```\n{NO}\n```",
    "p": f"Let me see. {YES} That is all.",  # in prose: the first flat object
    "c": '{"criteria_met": tr',  # cut off
    "s": '{"criteria_met": "true"}',  # text is not true
    "1": '{"criteria_met": 1}',  # nor is a number
    "e": "",
    "0": None,  # every attempt failed
    "k": '{"criteria": true}',  # another key
    "t": f"<think>{YES}</think>{NO}",  # read behind the thinking
    "u": f"<think>{YES}",  # thinking that never ends
    "2": NO + YES,  # two objects: not JSON as a whole, so the first
    "d": '{"a": {"b": 1}, "criteria_met": true}',  # nested, and JSON as a whole
    "x": 'so {"a": {"criteria_met": true}} it is',  # nested in prose: the inner one
}

# (weights, a letter of SAID for each, score); of ResearchRubrics and HealthBench.
WEIGHTED = [
    ("1", "y", "1"),
    ("1", "n", "0"),
    ("1 1", "yn", "1/2"),
    ("1 1 1", "yyn", "2/3"),
    ("2 1", "yn", "2/3"),
    ("2 1", "ny", "1/3"),
    ("5 3 2", "yny", "7/10"),
    ("5 -5", "yn", "1"),
    ("5 -5", "yy", "0"),
    ("5 -2", "yy", "3/5"),
    ("5 -8", "yy", "0"),  # below 0: cut
    ("5 3 -4", "yyy", "1/2"),
    ("5 3 -4", "nny", "0"),
    ("-3", "y", "0"),  # no positive weight
    ("-3 -1", "nn", "0"),
    ("0", "y", "0"),
    ("0 4", "yy", "1"),
    ("10 7 -6 3", "ynyn", "1/5"),
    ("0.5 1.5", "yn", "1/4"),
    ("0.5 1.5", "ny", "3/4"),
    ("1 1", "fF", "1/2"),
    ("1 1", "pp", "1"),
    ("1 1", "cy", "1/2"),
    ("1 1", "sy", "1/2"),
    ("1 1", "1y", "1/2"),
    ("1 1 1 1", "eeey", "1/4"),
    ("1 3", "0y", "3/4"),
    ("1 3", "ky", "3/4"),
    ("1 3", "ty", "3/4"),
    ("1 3", "uy", "3/4"),
    ("1 3", "2y", "3/4"),
    ("1 3", "dn", "1/4"),
    ("1 3", "xn", "1/4"),
    ("", "", "0"),  # no rubric
]

# (a letter for each rubric, score); of ResearchPlanGen, where all weigh 1.
PLAIN = [
    *(("y", "1"), ("n", "0"), ("yn", "1/2"), ("yyn", "2/3"), ("ynn", "1/3")),
    *(("yyyy", "1"), ("yyyn", "3/4"), ("yynn", "1/2"), ("ynnn", "1/4")),
    *(("nnnn", "0"), ("yyyyn", "4/5"), ("yyynn", "3/5"), ("ynnnn", "1/5")),
    *(("fn", "1/2"), ("Fy", "1/2"), ("pn", "1/2"), ("cn", "0"), ("cy", "1/2")),
    *(("sn", "0"), ("1n", "0"), ("en", "0"), ("0n", "0"), ("0y", "1/2")),
    *(("kn", "0"), ("tn", "0"), ("un", "0"), ("2n", "0"), ("dn", "1/2")),
    *(("xn", "1/2"), ("yyyyyyyyyy", "1"), ("ynynynynyn", "1/2"), ("", "0")),
]

# (number of rubrics, what the judge says, score over rubrics, score over lines)
PHRASES = [
    (1, "Completely", "1", "1"),
    (1, "Mostly", "3/4", "3/4"),
    (1, "Moderately", "1/2", "1/2"),
    (1, "Barely", "1/4", "1/4"),
    (1, "Not at all", "0", "0"),
    (2, "Completely\nNot at all", "1/2", "1/2"),
    (2, "Mostly\nBarely", "1/2", "1/2"),
    (3, "Completely\nMostly\nModerately", "3/4", "3/4"),
    (4, "Barely\nBarely\nBarely\nMostly", "3/8", "3/8"),
    (5, "Completely\nMostly\nModerately\nBarely\nNot at all", "1/2", "1/2"),
    (2, "Completely", "1/2", "1"),  # a line is missing
    (3, "Completely\nMostly", "7/12", "7/8"),
    (
        3,
        "Completely\nmostly\nMostly",
        "7/12",
        "7/8",
    ),  # not the phrase
    (2, "1. Completely\nMostly", "3/8", "3/4"),
    (2, "Completely.\nMostly", "3/8", "3/4"),
    (2, "  Completely  \n\tMostly ", "7/8", "7/8"),
    (2, "Completely\n\n\nMostly\n", "7/8", "7/8"),
    (1, "", "0", "0"),
    (2, None, "0", "0"),
    (2, "I cannot rate this.", "0", "0"),
    (2, "Ratings:\nMostly\nMostly", "3/4", "3/4"),
    (1, "Barely\nCompletely", "1/4", "5/8"),  # a line too many
    (2, "Not at all\nNot at all\nCompletely", "0", "1/3"),
    (1, "<think>\nCompletely\n</think>\nBarely", "1/4", "1/4"),
    (1, "<think>\nCompletely", "0", "0"),
    (2, "Completely Mostly", "0", "0"),
    (2, "Completely\r\nMostly", "7/8", "7/8"),
    (4, "Mostly\nMostly\nMostly\nMostly", "3/4", "3/4"),
    (3, "Moderately\nNot At All\nNot at all", "1/6", "1/4"),
    (2, "**Mostly**\nMostly", "3/8", "3/4"),
    (0, "Completely", "0", "0"),  # no rubric: not asked
]

# (what the judge says, score)
QUALITY = [
    ('{"content_quality": 1}', "0"),
    ('{"content_quality": 2}', "1/4"),
    ('{"content_quality": 3}', "1/2"),
    ('{"content_quality": 4}', "3/4"),
    ('{"content_quality": 5}', "1"),
    ('{"content_quality": 0}', "0"),
    ('{"content_quality": -7}', "0"),
    ('{"content_quality": 6}', "1"),
    ('{"content_quality": 100}', "1"),
    ('{"content_quality": 3.5}', "5/8"),
    ('{"content_quality": 1.2}', "1/20"),
    ('{"content_quality": "4"}', "3/4"),
    ('{"content_quality": " 2.0 "}', "1/4"),
    ('{"content_quality": "four"}', "1/2"),
    ('{"content_quality": "4/5"}', "1/2"),
    ('{"content_quality": null}', "1/2"),
    ('{"content_quality": true}', "1/2"),
    ('{"content_quality": [5]}', "1/2"),
    ('{"content_quality": NaN}', "1/2"),
    ('{"content_quality": Infinity}', "1/2"),
    ('{"quality": 5}', "1/2"),
    ('{"content_quality": 5', "1/2"),
    ("[5]", "1/2"),
    ("5", "1/2"),
    ("", "1/2"),
    (None, "1/2"),
    ('```json\n{"content_quality": 5}\n```', "1"),
    ('```JSON\n{"content_quality": 5}```', "1"),
    ('Good. {"content_quality": 4} Bye.', "3/4"),
    ('{"content_quality": 2}{"content_quality": 5}', "1/4"),
    ('<think>{"content_quality": 5}</think>{"content_quality": 1}', "0"),
    ('<think>{"content_quality": 5}', "1/2"),
]


def _five(*marks):
    names = ("depth", "structure", "relevance", "accuracy", "completeness")
    inside = (f'"{n}": {m}' for n, m in zip(names, marks, strict=True) if m is not None)
    return "{" + ", ".join(inside) + "}"


REPORT = [
    (_five(1, 1, 1, 1, 1), "0"),
    (_five(2, 2, 2, 2, 2), "1/4"),
    (_five(3, 3, 3, 3, 3), "1/2"),
    (_five(4, 4, 4, 4, 4), "3/4"),
    (_five(5, 5, 5, 5, 5), "1"),
    (_five(1, 2, 3, 4, 5), "1/2"),
    (_five(5, 5, 5, 5, 1), "4/5"),
    (_five(5, 1, 1, 1, 1), "1/5"),
    (_five(4, 3, 5, 2, 4), "13/20"),
    (_five(2, 1, 1, 1, 1), "1/20"),
    (_five(None, 5, 5, 5, 5), "9/10"),  # one is missing: 3
    (_five(1, None, 1, 1, 1), "1/10"),
    (_five(None, None, 5, 5, 5), "4/5"),
    (_five(None, None, None, None, None), "1/2"),
    (_five(9, 5, 5, 5, 5), "1"),
    (_five(0, 1, 1, 1, 1), "0"),
    (_five(-4, 5, 5, 5, 5), "4/5"),
    (_five(9, 1, 1, 1, 1), "1/5"),
    (_five('"5"', 5, 5, 5, 5), "1"),
    (_five('"high"', 5, 5, 5, 5), "9/10"),
    (_five("null", 5, 5, 5, 5), "9/10"),
    (_five("true", 1, 1, 1, 1), "1/10"),
    (_five(3.5, 3, 3, 3, 3), "21/40"),
    (_five(4.5, 4.5, 4.5, 4.5, 4.5), "7/8"),
    ("", "1/2"),
    (None, "1/2"),
    ("all fine", "1/2"),
    (_five(5, 5, 5, 5, 5)[:-1], "1/2"),
    (f"```json\n{_five(5, 5, 5, 5, 5)}\n```", "1"),
    (f"Here: {_five(2, 2, 2, 2, 2)}", "1/4"),
    (f"<think>{_five(5, 5, 5, 5, 5)}</think>{_five(1, 1, 1, 1, 1)}", "0"),
    (f'{{"scores": {_five(5, 5, 5, 5, 5)}}}', "1/2"),  # another form: all are missing
]

CHECKLIST = [
    *((f'{{"score": {v}}}', f"{v - 1}/9") for v in range(1, 11)),
    ('{"score": 0}', "0"),
    ('{"score": -3}', "0"),
    ('{"score": 11}', "1"),
    # No number: as absent. A judge that repeats itself writes as many digits.
    ('{"score": ' + "9" * 400 + "}", "0"),
    ('{"score": -' + "9" * 400 + "}", "0"),
    ('{"score": "' + "9" * 400 + '"}', "0"),
    ('{"score": 1e999}', "0"),
    ('{"score": 99}', "1"),
    ('{"score": "7"}', "2/3"),
    ('{"score": "7/10"}', "0"),
    ('{"score": "[8]"}', "0"),
    ('{"score": 5.5}', "1/2"),
    ('{"score": 3.25}', "1/4"),
    ('{"score": null}', "0"),
    ('{"score": false}', "0"),
    ('{"score": {"value": 9}}', "0"),
    ('{"rating": 9}', "0"),
    ('{"strengths": "a", "weaknesses": "b", "score": "4"}', "1/3"),
    ('{"score": 9', "0"),
    ("", "0"),
    (None, "0"),
    ("9", "0"),
    ('```json\n{"score": 10}\n```', "1"),
    ('I say {"score": 4}.', "1/3"),
    ('<think>hm</think>\n{"score": 10}', "1"),
    ('<think>{"score": 10}', "0"),
    ('{"score": NaN}', "0"),
]

# (round with the baseline as A, round with the model as A, score)
PAIRS = [
    ("[[A>>B]]", "[[B>>A]]", "0"),  # 0 0 0, 0 0 0
    ("[[B>>A]]", "[[A>>B]]", "1"),
    ("[[A=B]]", "[[A=B]]", "1/2"),
    ("[[B>A]]", "[[A>B]]", "1"),
    ("[[A>B]]", "[[B>A]]", "0"),
    ("[[A>B]]", "[[A>B]]", "1/2"),  # always the first
    ("[[B>A]]", "[[B>A]]", "1/2"),
    ("[[A>>B]]", "[[A>B]]", "1/4"),  # 0 0 0, 1
    ("[[A>B]]", "[[A>>B]]", "3/4"),  # 0, 1 1 1
    ("[[B>>A]]", "[[A>B]]", "1"),
    ("[[B>>A]]", "[[B>A]]", "3/4"),  # 1 1 1, 0
    ("[[B>A]]", "[[B>>A]]", "1/4"),  # 1, 0 0 0
    ("[[B>>A]]", "[[B>>A]]", "1/2"),
    ("[[A=B]]", "[[A>B]]", "3/4"),
    ("[[A=B]]", "[[B>A]]", "1/4"),
    ("[[A=B]]", "[[A>>B]]", "7/8"),  # .5, 1 1 1
    ("[[A>>B]]", "[[A=B]]", "1/8"),
    ("[[A<B]]", "[[B<A]]", "1"),  # mirrored spellings
    ("[[A<<B]]", "[[B<<A]]", "1"),
    ("[[B=A]]", "[[B=A]]", "1/2"),
    ("[[B<A]]", "[[A<B]]", "0"),
    ("[[a>b]]", "[[a>b]]", "1/2"),
    ("no label", "[[A>B]]", "1"),  # one can be read
    ("[[A>>B]]", "", "0"),
    ("", "", "1/2"),  # none can be read
    (None, None, "1/2"),
    (None, "[[B>A]]", "0"),
    ("[A>B]", "[B>A]", "0"),  # single brackets
    ("[[A>B]] no, [[B>A]]", "[[A>B]]", "1"),  # the last one
    ("[[A>B]] [B>A]", "[[B>A]]", "0"),  # double brackets win
    ("[[A>>>B]]", "[[A>B]]", "1"),  # no such label
    ("[[A]]", "[[B]]", "1/2"),
    ("<think>[[A>B]]</think>[[B>A]]", "[[ A>B ]]", "1"),
    ("<think>[[A>B]]", "[[A>B]]", "1"),
]

ONE, HALF, ZERO = "<score>1</score>", "<score>0.5</score>", "<score>0</score>"

# (golds, answer, tokens of it, what the judge says, again, score, exact, F1); the
# length factor is 1 up to 4 tokens, 0.05 from 8 on, and between them half a cosine.
EQUIVALENCE = [
    (["Bern"], "Bern", 1, ONE, None, "1", 1, "1"),
    (["Bern"], "bern.", 1, ONE, None, "1", 1, "1"),
    (["Bern"], "The Bern", 2, ONE, None, "1", 1, "1"),
    (["Bern"], "Basel", 1, ZERO, None, "0", 0, "0"),
    (["Bern"], "Basel", 1, ONE, None, "1", 0, "0"),  # the judge decides
    (["Bern", "Berne"], "Berne", 1, ONE, None, "1", 1, "1"),
    (["Bern", "Berne"], "Berna", 1, HALF, None, "1/2", 0, "0"),
    (["the Aare river"], "Aare", 1, ONE, None, "1", 0, "2/3"),
    (["Aare river"], "river Aare", 2, ONE, None, "1", 0, "1"),
    (["a b", "a b c d"], "a b c", 3, ONE, None, "1", 0, "4/5"),  # b: 2/3; b c d: 4/5
    (["x y z"], "x x x", 3, ZERO, None, "0", 0, "1/3"),  # a word counts once
    (["1932"], "in 1932", 2, ONE, None, "1", 0, "2/3"),
    (["1932"], "1,932", 1, ZERO, None, "0", 1, "1"),
    (["yes"], "", 0, None, None, "0", 0, "0"),  # no answer: not asked
    (["yes"], "yes", 4, ONE, None, "1", 1, "1"),
    (["yes"], "yes", 6, ONE, None, "21/40", 1, "1"),  # 0.05 + 0.95/2
    (["yes"], "yes", 8, ONE, None, "1/20", 1, "1"),
    (["yes"], "yes", 16, ONE, None, "1/20", 1, "1"),
    (["yes"], "yes", 17, None, None, "0", 1, "1"),  # over twice the limit: not graded
    (["yes"], "yes", 6, HALF, None, "21/80", 1, "1"),
    (["yes"], "yes", 6, ZERO, None, "0", 1, "1"),
    (["no"], "no", 1, "hm", ONE, "1", 1, "1"),  # asked again
    (["no"], "no", 1, "hm", ZERO, "0", 1, "1"),
    (["no"], "no", 1, "hm", "hm", "0", 1, "1"),
    (["no"], "no", 1, "<score>2</score>", HALF, "1/2", 1, "1"),
    (["no"], "no", 1, "<score>0.7</score>", ONE, "1", 1, "1"),
    (["no"], "no", 1, "", ONE, "1", 1, "1"),
    (["no"], "no", 1, "<think>" + ONE, ONE, "1", 1, "1"),
    (["no"], "no", 1, f"<think>{ONE}</think>{ZERO}", None, "0", 1, "1"),
    (["no"], "no", 1, "hm", None, "0", 1, "1"),  # the second call failed
    (["no"], "no", 1, "<scores>1</scores>", None, "1", 1, "1"),
    (["no"], "no", 1, "1", None, "1", 1, "1"),
    (['A" ; B'], "A B", 2, ONE, None, "1", 1, "1"),
]
