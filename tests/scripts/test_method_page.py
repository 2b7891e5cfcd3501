"""docs/method.md is what the configurations say, and can't say anything else."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

import configs
from models.errors import UserError
from pages import method_page

ROOT = Path(__file__).parents[2]
DATA = (ROOT / "docs" / "method.toml").read_text(encoding="utf-8")
FAMILIES = {n: configs.load(n) for n in ("qwen25_7b", "qwen3_8b", "olmo3_7b")}
PAPER = configs.load("qwen3_8b_paper")


def test_every_quirk_has_its_row_once():
    page = method_page.page(DATA, FAMILIES, PAPER)
    assert re.findall(r"^\| Q(\d+) ", page, re.M) == [str(n) for n in range(1, 55)]


def test_a_changed_constant_needs_a_reason():
    other = replace(FAMILIES["qwen3_8b"], seed=7)
    with pytest.raises(UserError, match=r"seed: ours is 42; 7 \(qwen3_8b\)"):
        method_page.page(DATA, FAMILIES | {"qwen3_8b": other}, PAPER)


def test_a_reason_needs_a_difference():
    said = DATA.replace("reference = 42", 'reference = 42, why = "no"')
    with pytest.raises(UserError, match="seed: ours is 42"):
        method_page.page(said, FAMILIES, PAPER)


def test_the_paper_s_values_are_the_variant_s():
    with pytest.raises(UserError, match=r"format_weight: qwen3_8b has 0\.5"):
        method_page.page(DATA, FAMILIES, FAMILIES["qwen3_8b"])


def test_a_value_that_is_part_of_the_code_names_no_setting():
    page = method_page.page(DATA, FAMILIES, PAPER)
    assert "| temperature of the evaluated Solver |  | 0 | 0 |  |" in page
    other = DATA.replace("ours = 0, reference = 0", "ours = 0, reference = 0.1", 1)
    with pytest.raises(UserError, match=r"Solver: ours is 0, .* 0\.1: give"):
        method_page.page(other, FAMILIES, PAPER)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (DATA + "\n[", "not TOML"),
        (DATA.replace("reference = 42", "referrence = 42"), "lacks 'reference'"),
        (DATA.replace("[[quirk]]", "[[quirks]]"), "lacks 'quirk'"),
    ],
)
def test_what_cannot_be_read_is_one_line(said, why):
    with pytest.raises(UserError, match=f"docs/method.toml: .*{why}") as caught:
        method_page.page(said, FAMILIES, PAPER)
    assert "\n" not in str(caught.value)


def test_a_switch_without_a_row_is_found():
    said = DATA.replace('compat = "sliding_context"', "")
    with pytest.raises(UserError, match="compat: sliding_context"):
        method_page.page(said, FAMILIES, PAPER)
