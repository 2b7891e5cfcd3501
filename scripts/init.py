"""Writes a configuration of your own: your model, your text, your card.

    python scripts/init.py
    python scripts/init.py --model Qwen/Qwen3-1.7B --text notes/ --card 24 --out my.py

It asks for what is not given, looks at model and text, and writes a commented Python
file, which `train.py --config my.py` runs.
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import check_packages  # noqa: F401
import configs
from initial import file as initial
from models.config import DecoderConfig
from models.errors import UserError
from models.hf.published import shape_of
from retrieval import forms
from retrieval.rows import Columns
from scope_jax.run import cli
from scope_jax.run.mistakes import check_file
from scope_jax.system.files import write_text

CPU = "cpu"
PEEKED = 100
"""Texts that are looked at before the file is written."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the file is about; what is empty is asked for."""

    model: str = ""
    """Folder in Hugging Face format, or name on the hub."""
    text: str = ""
    """File or folder of texts (docs/your-text.md)."""
    card: str = ""
    """Memory of the one GPU in GB, such as 24; or `cpu`."""
    text_column: str = ""
    """Column with the text, if it is not `contents` or `text`."""
    title_column: str = ""
    """Column with each text's title, if it is not `title`."""
    id_column: str = ""
    """Column with each text's name, if it is not `id` or `_id`."""
    encoder: str = ""
    """Transformer encoder of the search, such as intfloat/e5-base-v2: then passages are
    ranked by vectors and words. Empty: by words alone, without a model."""
    cut_tokens: int = 150
    """Longer texts are cut into passages of so many tokens; 0 cuts none."""
    out: Path = Path("my.py")
    """The file to write."""
    overwrite: bool = False
    """Replace a file that is there."""


QUESTIONS = {
    "model": "Model (folder, or name on the hub)",
    "text": "Text (file or folder)",
    "card": "Memory of your GPU in GB, or cpu",
}


def main(argv: Sequence[str]) -> int:
    options = cli.parse_alone(Options, argv, prog="init.py", about=__doc__)
    if options.out.suffix != ".py":
        raise UserError(f"--out {options.out}: is no Python file: name one as my.py")
    check_file("--out", options.out)
    if options.out.exists() and not options.overwrite:
        raise UserError(f"--out {options.out}: exists: name another, or --overwrite")
    columns = Columns(options.id_column, options.title_column, options.text_column)
    told = {name: getattr(options, name) or _ask(name) for name in QUESTIONS}
    choice = initial.Choice(
        model=told["model"],
        decoder=_shape(told["model"]),
        text=_text(told["text"], columns),
        columns=columns,
        gigabytes=_gigabytes(told["card"]),
        encoder=options.encoder,
        cut_tokens=options.cut_tokens,
        out=options.out,
    )
    write_text(options.out, initial.source(choice))
    try:
        configs.load(str(options.out))
    except UserError as error:
        raise UserError(
            f"{options.out}: written, but not right yet: {error}"
        ) from error
    print(f"{options.out}: written. Look at it, then:")
    print("\n".join(f"    {line}" for line in initial.commands(choice)))
    return 0


def _ask(name: str) -> str:
    try:
        answer = input(f"{QUESTIONS[name]}: ").strip()
    except EOFError:
        answer = ""
    if not answer:
        raise UserError(f"--{name}: missing: give it, or answer the question")
    return answer


def _shape(model: str) -> DecoderConfig:
    try:
        return shape_of(model)[0]
    except UserError as error:
        raise UserError(str(error).replace("model.path=", "--model ", 1)) from error


def _text(text: str, columns: Columns) -> str:
    """A text whose first rows can be read."""
    path = Path(text).expanduser()
    if not path.exists():
        raise UserError(f"--text {text}: no such file or folder: give your text")
    try:
        found = [*islice(forms.documents(path, columns=columns), PEEKED)]
    except UserError as error:
        own = str(error).replace("(see retrieval.", "(give --")
        raise UserError(re.sub(r"retrieval\.(\w+_column)", r"--\1", own)) from error
    if not found:
        raise UserError(f"--text {text}: has no text: add at least one")
    return text


def _gigabytes(card: str) -> float:
    """Memory of the card; 0 for a CPU."""
    if card.lower() == CPU:
        return 0.0
    try:
        gigabytes = float(card)
    except ValueError:
        gigabytes = 0.0
    if not 0 < gigabytes < 1e4:
        raise UserError(f"--card {card}: is neither a size in GB nor cpu: give one")
    return gigabytes


if __name__ == "__main__":
    cli.run_main(main)
