"""Which models are compared: a run's Solvers, folders, hub names, servers.

    runs/tiny               the base model and every finished Solver of a run
    runs/tiny:2             the Solver of iteration 2; runs/tiny:2/challenger; :base
    FOLDER, owner/name      a Hugging Face folder, or a model of the hub
    http://host:8000#name   a server with OpenAI's completions (vLLM, SGLang)

Each may have a name of its own in front: ``ours=runs/tiny:2``.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

from models import hf
from models.chat_templates import DATE, load_template, shows_day
from models.errors import UserError
from scope_jax.config import Config
from scope_jax.method.types import ToolFormat
from scope_jax.run.paths import RunPaths
from scope_jax.small_world.assets import MODEL, model_path
from scope_jax.system import settings
from scope_jax.system.files import read_json

_NAMED = re.compile(r"([\w.-]+)=(.+)", re.DOTALL)
_PLACE = re.compile(r"(.+):(base|\d+(?:/(?:solver|challenger))?)")
BASE = "base"
ENDED = ("done", "damaged")
"""What a manifest says of a stage that has ended; what it made may be lost since."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One model that is compared.

    Attributes:
      name: in tables and folders.
      path: folder or hub name of its weights; empty for a server's.
      url: of the server; empty for weights.
      served: the model's name there; empty: the only one that it has.
      tokenizer: folder or hub name.
      tool_format, prompts, template: how it is asked.
    """

    name: str
    path: str = ""
    url: str = ""
    served: str = ""
    tokenizer: str
    tool_format: ToolFormat
    prompts: str
    template: str | None


def entries(
    given: Sequence[str], config: Config, *, tokenizer: str = "", tool_format: str = ""
) -> list[Entry]:
    """What a command line names, in its order.

    Args:
      given: as above.
      config: whose prompt set holds for what is no run's.
      tokenizer: of servers' models; without weights nothing else says it.
      tool_format: of servers' models, and of folders in place of the configuration's.

    Raises:
      UserError: no such model or iteration, a name that is given twice, a server
        without a tokenizer or format.
    """
    if tool_format and tool_format not in get_args(ToolFormat):
        known = ", ".join(get_args(ToolFormat))
        raise UserError(f"--format {tool_format}: unknown: use one of {known}")
    found: list[Entry] = []
    for text in given:
        named = None if "://" in text.partition("=")[0] else _NAMED.fullmatch(text)
        name, what = (named[1], named[2]) if named else ("", text)
        if "://" in what:
            made = [_server(what, config, tokenizer, tool_format)]
        else:
            made = _run(what) or [_folder(what, config, tool_format)]
        if name and len(made) > 1:
            raise UserError(
                f"--model {text}: names {len(made)} models: choose one of them, as in "
                f"{name}={what}:1"
            )
        found += [replace(entry, name=name or entry.name) for entry in made]
    names = [entry.name for entry in found]
    for entry in found:
        if names.count(entry.name) > 1:
            raise UserError(
                f"--model {entry.name}: named twice: put a name in front of one of "
                "them, as in other=..."
            )
    return found


def one(text: str, config: Config, what: str) -> Entry:
    """The one model that ``text`` names.

    Raises:
      UserError: it names none or several.
    """
    found = entries([text], config)
    if len(found) > 1:
        raise UserError(f"{what} {text}: names {len(found)} models: choose one")
    return found[0]


def day(config: Config) -> str:
    """What templates are told. Not today: the same command goes on tomorrow."""
    return config.model.date or DATE


def day_shown(entry: Entry, config: Config) -> dict[str, str]:
    """The day that a model's prompts show, as a fact; none where they show none.

    Raises:
      UserError: its tokenizer or template cannot be used.
    """
    template = load_template(hf.load_tokenizer(entry.tokenizer), entry.template)
    return {"date": day(config)} if shows_day(template) else {}


def folder_of(what: str) -> str:
    """The folder of a run's model; of what names none, all of it."""
    place = _PLACE.fullmatch(what)
    return place[1] if place else what


def is_run(path: Path) -> bool:
    """Whether a folder is a run's."""
    return (path / "manifest.json").is_file() and (path / "config.json").is_file()


def _run(what: str) -> list[Entry]:
    """The models of a run; none if ``what`` names no run."""
    place = _PLACE.fullmatch(what)
    folder, which = (Path(place[1]), place[2]) if place else (Path(what), "")
    if not is_run(folder):
        if place and not Path(what).exists():  # nor is it a name of the hub
            raise UserError(f"--model {what}: {folder}: no run is there: name a run")
        return []
    config = settings.load(Config, folder / "config.json")
    paths, name = RunPaths(folder), folder.resolve().name

    def entry(label: str, path: str) -> Entry:
        return Entry(
            name=f"{name}-{label}",
            path=_found(path),
            tokenizer=_found(path),
            tool_format=config.tool_format,
            prompts=config.prompts,
            template=config.model.template,
        )

    if which == BASE:
        return [entry(BASE, config.model.path)]
    if which:
        iteration, _, role = which.partition("/")
        path = _exported(what, paths, int(iteration), role or "solver")
        if path is None:
            path = paths.export(int(iteration), role or "solver")
            raise UserError(
                f"--model {what}: {path}: not exported yet: choose another iteration, "
                "or let the run continue"
            )
        return [entry(f"iter_{iteration}" + f"-{role}" * bool(role), str(path))]
    solvers = [
        entry(f"iter_{iteration}", str(path))
        for iteration in range(1, config.iterations + 1)
        if (path := _exported(what, paths, iteration, "solver"))
    ]
    return [entry(BASE, config.model.path), *solvers]


def _exported(what: str, paths: RunPaths, iteration: int, role: str) -> Path | None:
    """The folder of a finished stage's weights; None of a stage that is not finished.

    Raises:
      UserError: it is lost: a comparison without it would look whole.
    """
    path = paths.export(iteration, role)
    if path.is_dir():
        return path
    try:
        stages = read_json(paths.path / "manifest.json")["stages"]
        status = stages.get(f"iter_{iteration}/{role}", {}).get("status")
    except (UserError, KeyError, TypeError, AttributeError):
        status = None  # then stages are known by their files alone
    if status not in ENDED:
        return None
    raise UserError(
        f"--model {what}: {path}: is gone, although its stage is finished: restore it, "
        f"or choose other models, as in {paths.path}:base"
    )


def _folder(what: str, config: Config, tool_format: str) -> Entry:
    return Entry(
        name="demo" if what in ("demo", str(MODEL)) else Path(what).name or what,
        path=_found(what),
        tokenizer=_found(what),
        tool_format=tool_format or config.tool_format,
        prompts=config.prompts,
        template=None,
    )


def _server(what: str, config: Config, tokenizer: str, tool_format: str) -> Entry:
    url, _, served = what.partition("#")
    if not tokenizer or not tool_format:
        raise UserError(
            f"--model {what}: a server is sent token ids: give --tokenizer FOLDER and "
            f"--format, one of {', '.join(get_args(ToolFormat))}"
        )
    return Entry(
        name=Path(served).name or (urlsplit(url).hostname or "server"),
        url=url.rstrip("/").removesuffix("/v1"),
        served=served,
        tokenizer=_found(tokenizer),
        tool_format=tool_format,
        prompts=config.prompts,
        template=None,
    )


def _found(path: str) -> str:
    """A folder's path, ``demo`` being the small world's model."""
    return str(model_path()) if path == "demo" else path
