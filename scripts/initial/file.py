"""The text of a configuration file for somebody's model, text and card."""

import json
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path

from models.config import DecoderConfig
from retrieval import forms
from retrieval.rows import Columns

SMALL = 3e9
"""Parameters below which a model is shown example turns: it needs them to follow the
formats."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a person has chosen.

    Attributes:
      model: path or name; ``decoder``: its shape.
      text: file or folder.
      columns: where its rows have what.
      gigabytes: of the one GPU; 0 for a CPU.
      encoder: of the search; empty: none.
      cut_tokens: of a passage; 0: texts are not cut.
      out: the file that is written.
    """

    model: str
    decoder: DecoderConfig
    text: str
    columns: Columns
    gigabytes: float
    encoder: str
    cut_tokens: int
    out: Path

    @property
    def base(self) -> str:
        """The configuration that the file changes."""
        if not self.gigabytes:
            return "qwen25_05b"
        return "qwen3_1_7b" if self.decoder.model_type == "qwen3" else "llama32_1b"


def commands(choice: Choice) -> list[str]:
    """What to run, in order."""
    out = shlex.quote(str(choice.out))
    search = [f"--passages {shlex.quote(choice.text)}"]
    search += [f"--{name} {shlex.quote(value)}" for name, value in _named(choice)]
    if choice.encoder:
        search += [
            "--encoder transformer",
            f"--encoder_path {shlex.quote(choice.encoder)}",
        ]
    search += [f"--ranking {'fused' if choice.encoder else 'bm25'}"]
    if choice.cut_tokens:
        search += [f"--cut_tokens {choice.cut_tokens}"]
    return [
        f"python scripts/build_index.py {' '.join(search)}",
        f"python scripts/train.py --config {out} --plan",
        f"python scripts/train.py --config {out}",
    ]


def quoted(text: str) -> str:
    """Text as Python writes it in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def _said(text: str) -> str:
    """Text that may stand in a docstring."""
    return text.replace("\\", "\\\\").replace('"', '\\"')


def source(choice: Choice) -> str:
    """The file: a docstring, the choices, and ``config()``."""
    where = f"a card of {choice.gigabytes:g} GB" if choice.gigabytes else "a CPU"
    title = _said(f"{choice.model} on {choice.text}")
    shown = "\n".join(f"    {_said(line)}" for line in commands(choice))
    head = [
        f'"""{title}, on {where}.',
        "",
        f"Written by scripts/init.py from `{choice.base}`; change whatever you like.",
        f"All settings: `python scripts/train.py --config {choice.out} --help-all`.",
        "",
        f"Hardware: {where}.",
        "",
        f'{shown}\n"""',
        "",
        "from dataclasses import replace",
        "",
        "import configs",
        "from scope_jax.config import Config",
    ]
    if choice.gigabytes:
        head += ["from scope_jax.run.fit import fitted"]
    head += ["", *assigned("MODEL", choice.model), *assigned("TEXT", choice.text)]
    if choice.gigabytes:
        head += [f"CARD = {choice.gigabytes:g}  # GB of memory"]
    return "\n".join([*head, "", "", *_function(choice)]) + "\n"


def _function(choice: Choice) -> list[str]:
    lines = [
        "def config() -> Config:",
        f'    """`{choice.base}` with another model and text."""',
        f'    base = configs.load("{choice.base}")',
        "    made = replace(",
        "        base,",
        "        # The run folder is runs/NAME.",
        f"        name={quoted(choice.out.stem)},",
        *_model(choice),
        "        # Challenger, tasks, Solver: so many times.",
        f"        iterations={3 if choice.gigabytes else 1},",
        *_text(choice),
        "        # A part of the reward of your own: docs/your-reward.md.",
        '        # solver=replace(base.solver, reward="my_reward.py:score"),',
        "        # Steps, prompts and rollouts of a stage; likewise challenger_train.",
        "        solver_train=replace(",
        "            base.solver_train,",
        f"            steps={10 if choice.gigabytes else 1},",
        f"            prompts_per_step={32 if choice.gigabytes else 4},",
        f"            group_size={8 if choice.gigabytes else 2},",
        "        ),",
        *_prompt_room(choice),
        "    )",
    ]
    if not choice.gigabytes:
        return [*lines, "    return made"]
    return [
        *lines,
        "    # Whole weights or adapters, rows, slots and cache, as the plan allows.",
        "    return fitted(made, CARD)[0]",
    ]


def _model(choice: Choice) -> list[str]:
    """Model, template, format and prompts, which belong together."""
    small = _parameters(choice.decoder) < SMALL
    template = "base.model.template" if choice.base == "qwen3_1_7b" else "None"
    tags = small or choice.base != "qwen3_1_7b"
    return [
        "        # The template is the tokenizer's own, if None.",
        f"        model=replace(base.model, path=MODEL, template={template}),",
        "        # search_r1: searches are tags, which any model can learn.",
        f"        tool_format={quoted('search_r1') if tags else 'base.tool_format'},",
        "        # few_shot shows example turns, which small models need; or default.",
        f'        prompts="{"few_shot" if small else "default"}",',
    ]


def _prompt_room(choice: Choice) -> list[str]:
    """Longer Challenger prompts, where they have example turns."""
    if not choice.gigabytes or _parameters(choice.decoder) >= SMALL:
        return []  # a CPU's configuration has room for them
    return [
        "        challenger_train=replace(",
        "            base.challenger_train,",
        "            # Example turns are part of the prompt.",
        "            max_prompt_tokens=2048,",
        "            max_response_tokens=6144,",
        "        ),",
    ]


def _text(choice: Choice) -> list[str]:
    """Passages and search."""
    form = forms.form_of(Path(choice.text).expanduser())
    lines = [
        f"        # {form.name}; other columns: id_column, title_column, text_column.",
        "        retrieval=replace(",
        "            base.retrieval,",
        "            passages=TEXT,",
        *(f"            {name}={quoted(value)}," for name, value in _named(choice)),
        "            # vectors (of an encoder), bm25 (words), or fused (both).",
        f'            ranking="{"fused" if choice.encoder else "bm25"}",',
    ]
    if choice.encoder:
        lines += [
            '            encoder="transformer",',
            f"            encoder_path={quoted(choice.encoder)},",
        ]
    else:
        lines += ['            encoder="lexical",', '            encoder_path="",']
    return [
        *lines,
        "            # Longer texts are cut into passages of so many tokens; 0: never.",
        f"            cut_tokens={choice.cut_tokens},",
        "        ),",
    ]


def _named(choice: Choice) -> list[tuple[str, str]]:
    """Settings and names of the columns that have other names."""
    columns = asdict(choice.columns)
    return [(f"{kind}_column", name) for kind, name in columns.items() if name]


def _parameters(decoder: DecoderConfig) -> float:
    """How many numbers its matrices have."""
    d, heads = decoder.hidden_size, decoder.num_heads + decoder.num_kv_heads
    layer = 2 * d * heads * decoder.head_dim + 3 * d * decoder.intermediate_size
    tables = 1 if decoder.tie_embeddings else 2
    return decoder.num_layers * layer + tables * decoder.vocab_size * d


def assigned(name: str, value: str) -> list[str]:
    """The lines that give a text a name, as a formatter writes them."""
    whole, inner = f"{name} = {quoted(value)}", f"    {quoted(value)}"
    if len(whole) <= 88 or len(inner) > 88:  # where nothing makes it fit
        return [whole]
    return [f"{name} = (", inner, ")"]
