"""Writes docs/method.md: our constants beside the reference's and the paper's.

python scripts/method.py
"""

from collections.abc import Sequence
from pathlib import Path

import configs
from models.errors import UserError
from scope_jax import cli, method_page

DOCS = Path(__file__).resolve().parents[1] / "docs"
FAMILIES = ("qwen25_7b", "qwen3_8b", "olmo3_7b")


def build() -> str:
    """The page as it must be."""
    return method_page.page(
        (DOCS / "method.toml").read_text(encoding="utf-8"),
        {name: configs.load(name) for name in FAMILIES},
        configs.load(f"{FAMILIES[1]}_paper"),
    )


def main(argv: Sequence[str]) -> int:
    if argv:
        raise UserError(f"{argv[0]}: method.py takes no arguments: leave it out")
    (DOCS / "method.md").write_text(build(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    cli.run_main(main)
