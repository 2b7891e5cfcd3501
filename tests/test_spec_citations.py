"""Every citation ``(spec ..)`` names a section or a row of docs/spec.md."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SPEC = (ROOT / "docs" / "spec.md").read_text(encoding="utf-8")
FOLDERS = (
    *("configs", "docs", "models", "retrieval"),
    *("rl", "scope_jax", "scripts", "tests"),
)

REF = r"Q?\d+(?:\.\d+)*"
CITATION = re.compile(
    rf"\bspec\s+(?:section\s+)?({REF}(?:(?:,\s*|\s+(?:and|to)\s+){REF})*)", re.I
)


def sections(text):
    """The numbers of its headings, and of the rows of its sections 3.9 and 15."""
    headings = re.findall(r"^#{2,3} (\d+(?:\.\d+)?)\.? ", text, re.M)
    rows = re.findall(r"^\| (Q\d+|\d+\.\d+\.\d+) ", text, re.M)
    return {*headings, *rows}


def citations(text):
    """What ``text`` cites, one entry per section."""
    return [ref for cited in CITATION.findall(text) for ref in re.findall(REF, cited)]


def files():
    for folder in FOLDERS:
        for suffix in ("py", "md", "toml"):
            yield from sorted((ROOT / folder).rglob(f"*.{suffix}"))
    yield from (ROOT / "README.md", ROOT / "pyproject.toml")


def unknown(text):
    return sorted(set(citations(text)) - sections(SPEC))


def test_every_citation_names_a_section_of_the_specification():
    cited = 0
    wrong = {}
    for path in files():
        text = path.read_text(encoding="utf-8")
        cited += len(citations(text))
        if missing := unknown(text):
            wrong[str(path.relative_to(ROOT))] = missing
    assert wrong == {}
    assert cited > 80  # the expression does find them


def test_the_specification_s_sections_are_found():
    found = sections(SPEC)
    assert {*map(str, range(1, 16)), "1.4", "3.9", "3.9.9", "9.2", "13.2"} <= found
    assert {f"Q{row}" for row in range(1, 51)} <= found


@pytest.mark.parametrize(
    ("said", "missing"),
    [
        ("(spec {})", ["99.9"]),
        ("(spec Q48, {})", ["99.9"]),
        ("# Spec {}: the title", ["99.9"]),
        ("(spec 9.2,\n    10 and {})", ["99.9"]),
        ("(spec 11.1 to {})", ["99.9"]),
        ("(spec section {})", ["99.9"]),
        ("({})", []),
    ],
)
def test_a_citation_of_no_section_is_found(said, missing):
    assert unknown(said.format("99.9")) == missing


def test_every_number_of_a_list_is_read():
    said = "(" + "spec 3.7, 3.8 and 11.1 to 11.3), (" + "spec 9.2, Q48)"
    assert citations(said) == ["3.7", "3.8", "11.1", "11.3", "9.2", "Q48"]
