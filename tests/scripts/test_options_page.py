"""docs/options.md names settings that there are, papers and formulas that code has."""

from dataclasses import replace

import pytest

import configs
from models.errors import UserError
from pages import options_page
from pages.option_rows import OPTIONS

CONFIG = configs.load("tiny")
ONE = OPTIONS[0]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_row_has_its_own_values_formula_and_paper(option):
    page = options_page.page(CONFIG, [option])
    formula, paper = options_page.sections(option)
    [row] = [x for x in page.splitlines() if x.startswith(f"| {option.name} |")]
    row = row.replace("\\|", "|")
    assert formula in row and paper in row and option.what in row
    assert "[" not in formula + paper  # the other options' parts are left out


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"settings": {"solver_train.loss.agregation": "row_mean"}}, "no such setting"),
        ({"settings": {"solver_train.loss.aggregation": "median"}}, "aggregation"),
        ({"settings": {"solver_train.loss.clip_high": -1.0}}, "clip_high=-1.0"),
        ({"function": "rl.learner.losses:token_wheights"}, "no section 'Formula:'"),
        ({"function": "rl.learner.losses:clip_indicators"}, "no section 'Formula:'"),
        ({"name": "constant height"}, "no section 'Formula:' about it"),
    ],
)
def test_a_row_that_the_code_does_not_bear_out_is_refused(given, why):
    with pytest.raises(UserError, match=why):
        options_page.page(CONFIG, [replace(ONE, **given)])
