"""Writes the pages of docs/ that are made from the code.

method, options, families, the rooms, and tables in your-text.md and your-reward.md:

python scripts/docs.py
python scripts/docs.py --count      prints lines of code instead, room by room
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import check_packages  # noqa: F401
import configs
from pages import families_page, method_page, options_page, rooms, source, tables
from scope_jax.run import cli
from scope_jax.system.files import read_text

ROOT = Path(__file__).resolve().parents[1]
FAMILIES = ("qwen25_7b", "qwen3_8b", "olmo3_7b")


def build() -> dict[str, str]:
    """Name -> text of every page, as it must be."""
    files = source.read(ROOT)
    method = method_page.page(
        read_text(ROOT / "docs" / "method.toml"),
        {name: configs.load(name) for name in FAMILIES},
        configs.load(f"{FAMILIES[1]}_paper"),
    )
    return {
        "families.md": families_page.page(ROOT),
        "method.md": method,
        "options.md": options_page.page(configs.load(FAMILIES[0])),
        "rooms.md": rooms.page(files),
        "rooms.svg": rooms.draw(files),
        "your-reward.md": tables.prompt_slots(_written("your-reward.md")),
        "your-text.md": tables.text_forms(_written("your-text.md")),
    }


def _written(name: str) -> str:
    """A page of which only a table is made from the code."""
    return read_text(ROOT / "docs" / name)


def main(argv: Sequence[str]) -> int:
    parser = cli.ArgumentParser(prog="docs.py", description=__doc__)
    parser.add_argument("--count", action="store_true", help="count, write nothing")
    if parser.parse_args(argv).count:
        print(source.count(source.read(ROOT)))
        return 0
    for name, text in build().items():
        (ROOT / "docs" / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    cli.run_main(main)
