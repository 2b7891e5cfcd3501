"""docs/families.md: families of models from their declarations, and what is tested.

The counts are those of the cases in the tests' own source, which is read, not run.
"""

import ast
import importlib
import pkgutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import configs
from models import families
from models.config import DecoderConfig
from models.families import FAMILIES
from models.hf.published import PUBLISHED

INTRODUCTION = """# Families of models

Written by `python scripts/docs.py` from `models/families`, `models/hf/published.py` and
the tests; a test fails when it is out of date. A decoder's folder is used if its
`config.json` has one of these types. The shapes are of models whose `--plan` needs no
folder.

| `model_type` | what it is | template for base models | shapes known |
| --- | --- | --- | --- |
"""
TESTS = """
## What is tested

The table counts small models with random weights. *Logits*, *gradients*: float32
results equal those of transformers, gradients for every parameter. *Import and export*:
the exported bytes are the imported ones, in float32 and bfloat16. *Adapters*: peft 0.21
computes the same with random adapters, and their folders come back byte for byte.
*Lowered for CUDA*: the programs compile for CUDA up to the point that needs a GPU.

| `model_type` | logits | gradients | import and export | adapters | lowered for CUDA |
| --- | --- | --- | --- | --- | --- |
"""
EACH = """
And for each family once (`tests/models/test_families.py`):

| test | what holds |
| --- | --- |
"""
LIMITS = """
The templates are compared with Jinja's rendering by transformers and with plain Python,
300 generated conversations each, and control tokens in content stay text
(`tests/models/test_chat_families.py`). Gemma's kind of tokenizer (no byte-level one) is
among those.

## What is refused, in a line

- **Tokenizers that add a space** before a text, as Llama 2's and those of Mistral
  before its byte-level ones (Nemo, Ministral): a turn would have other ids alone than
  within a conversation.
- `attn_logit_softcapping` (no published Gemma 3 has it; transformers reads it and
  computes without it) and `use_bidirectional_attention`.
- **Attention**: `engine.attention=fa3` and `attention=cudnn` take heads of at most 128
  numbers, and Gemma's have 256: use blocks or pallas.

## Good to know

- Of a model that also sees images (`gemma3`, `mistral3`) the text model is read, and an
  export is that of a text model. An adapter alone (without `--merged`) has the names of
  the whole model, as transformers 4.52 and later have them; peft adapts its text model.
- Layers of one kind share a program, also where their pattern doesn't divide the number
  of layers (Gemma 3 with 1B: one of six sees all, of 26).
- Mistral's template writes a conversation as mistral-common 1.13.1 does for version 13
  of its tokenizers; older ones put a system message elsewhere: use the tokenizer's own.
- SmolLM3's head says the day: `model.date`, as for Llama 3.
"""


def page(root: Path) -> str:
    """The whole page."""
    about, cases = _files(), _cases(root)
    rows, tested = [], []
    for name, family in FAMILIES.items():
        known = [path for path in PUBLISHED if _type_of(path) == name]
        rows.append(
            f"| `{name}` | {about[name]} | `{family.template}` | "
            f"{', '.join(known) or '-'} |"
        )
        counts = (str(count[name] or "-") for count in cases)
        tested.append(f"| `{name}` | {' | '.join(counts)} |")
    each = [f"| {name} | {text} |" for name, text in _each(root)]
    return (
        INTRODUCTION + "\n".join(rows) + "\n" + TESTS + "\n".join(tested) + "\n"
        f"{EACH}" + "\n".join(each) + "\n" + LIMITS
    )


def _files() -> dict[str, str]:
    """What the file of each family says in its first line."""
    found = {}
    for info in pkgutil.iter_modules(families.__path__):
        module = importlib.import_module(f"models.families.{info.name}")
        own = list(map(id, vars(module).values()))
        for name, family in FAMILIES.items():
            if id(family) in own:
                found[name] = module.__doc__.split("\n")[0].rstrip(".")
    return found


def _cases(root: Path) -> tuple[Mapping[str, int], ...]:
    """For each column, how many cases each family has."""
    tests = root / "tests"
    cases = _assigned(tests / "models/cases.py", "CASES")
    family = {case.value: pair.elts[0].value for case, pair in _items(cases)}
    gradients = _parameters(tests / "models/test_parity.py", "test_gradients_are")
    models = _assigned(tests / "models/hf/test_hf.py", "MODELS")
    adapters = _assigned(tests / "models/hf/test_hf_adapters.py", "FAMILIES")
    lowered = _assigned(tests / "rl/test_cuda_exports.py", "FAMILIES")
    ours = _assigned(tests / "rl/test_cuda_exports.py", "HEADS_OF_128")
    configured = [
        configs.load(x.value).model.path
        for x in ours.elts
        if isinstance(x, ast.Constant)
    ]
    return (
        Counter(family.values()),
        Counter(family[case] for case in gradients),
        Counter(name.value.partition("-")[0] for name, _ in _items(models)),
        Counter(name.value for name, _ in _items(adapters)),
        Counter(map(_type_of, [*(x.value for x in lowered.elts), *configured])),
    )


def _type_of(path: str) -> str:
    """The type of a published model, or that of its text model."""
    return DecoderConfig.from_hf(PUBLISHED[path]).model_type


def _each(root: Path) -> list[tuple[str, str]]:
    """(name, docstring) of the tests that every family goes through."""
    tree = ast.parse((root / "tests/models/test_families.py").read_text())
    found = [
        (node.name.removeprefix("test_").replace("_", " "), ast.get_docstring(node))
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    return [(name, text) for name, text in found if text]


def _assigned(file: Path, name: str) -> ast.expr:
    """The value that a file gives to a name."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == name:
            return node.value
    raise ValueError(f"{file}: gives no value to {name}")


def _items(value: ast.expr) -> list[tuple[ast.expr, ast.expr]]:
    """Keys and values of a dictionary."""
    return list(zip(value.keys, value.values, strict=True))


def _parameters(file: Path, test: str) -> list[str]:
    """The cases for which a test is written, from its decorator."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith(test):
            return [case.value for case in node.decorator_list[0].args[1].elts]
    raise ValueError(f"{file}: has no {test}")
