"""Command lines of the scripts: a configuration by name, then typed overrides.

``train.py --config NAME [--run DIR] [--fresh] [--solver.length.soft 512 ...]``, and
``--tasks FILE`` for ``--tasks.file FILE --challenger_train.steps 0``, which refuses
other values of these two beside it.
Names are checked before tyro sees them, and its messages about values are condensed, so
that every mistake is one line: the value, why it is wrong, and what to do.
"""

import argparse
import contextlib
import errno
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, Protocol, TypeVar

import tyro

from models import storage
from models.control_tokens import encodable
from models.errors import StorageError, UserError
from models.ranges import NOT_NEGATIVE, CountOrZero, check_fields
from scope_jax.config import Config
from scope_jax.method import prompts
from scope_jax.run import help
from scope_jax.run.mistakes import as_given, condense, refused
from scope_jax.run.printable import printable
from scope_jax.run.sizes import check_sizes
from scope_jax.system.settings import closest, leaves
from scope_jax.system.stopping import Stopped

Options = TypeVar("Options")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of this invocation only; never part of a run's configuration."""

    run: Path | None = None
    """Run folder. None: `runs/NAME`, where NAME is the configuration's name."""
    fresh: bool = False
    """Delete what an earlier run left in the run folder, and start again."""
    profile: CountOrZero = 0
    """Number of steps of each training stage, from its second step on, whose JAX
    profiler trace is written to `profile/` in the run folder."""

    memory: Annotated[float, NOT_NEGATIVE] = 0.0
    """Memory of the one card that everything runs on, in 10^9 bytes: whole weights or
    adapters, rows, slots and cache are then chosen by the plan, and printed; what the
    configuration or another option says of them does not count. The card that
    `placement` names, and other shares of it, do. 0 chooses nothing."""
    plan: bool = False
    """Print what each program needs on each device, by kind, and exit; with an error if
    it does not fit. Needs no GPU and no weights."""

    def __post_init__(self):
        check_fields(self)

    def folder(self, config: Config) -> Path:
        """The run folder of this invocation."""
        return self.run if self.run is not None else Path("runs") / config.name


class Configurations(Protocol):
    """The package ``configs``, which this room may not import."""

    def load(self, name: str) -> Config:
        """The configuration called ``name``."""

    def describe(self, name: str) -> str:
        """What ``--help`` says first."""


def parse(
    argv: Sequence[str],
    configs: Configurations,
    *,
    options: type[Options] = RunOptions,
    prog: str = "train.py",
) -> tuple[Config, Options]:
    """The configuration and the options that a command line asks for.

    Args:
      argv: arguments, without the program's name.
      options: dataclass of options that are not part of the configuration.

    Raises:
      UserError: an unknown configuration, an unknown field, or values that are wrong
        or do not fit one another.
      SystemExit: after ``--help``.
    """
    parser = ArgumentParser(prog=prog, add_help=False, allow_abbrev=False)
    parser.add_argument("--config", default="tiny" if _asks_for_help(argv) else None)
    parser.add_argument("--tasks", default=None)
    given, rest = parser.parse_known_args(argv)
    if not given.config:
        raise UserError(f"--config: missing: name one, as in {prog} --config tiny")
    if given.tasks == "":
        raise UserError("--tasks: empty: name a file, or leave it out")
    if given.tasks is not None:
        # Nobody reads what a Challenger that is trained beside them would write.
        rest = ["--tasks.file", given.tasks, "--challenger_train.steps", "0", *rest]
    name = given.config
    parts = {"options": options(), "config": configs.load(name)}
    about = (
        f"--config {name}: {configs.describe(name)}\n\n"
        "Every field of the configuration can be set, by its dotted name."
    )
    if _asks_for_help(argv):
        if not any(token in HELP_ALL for token in argv):
            print(f"{about}\n\n{help.text(parts['options'], parts['config'])}")
            raise SystemExit(0)
        rest = ["--help"]
    parsed = _parse(rest, parts, f"{prog} --config NAME", about)
    if given.tasks is not None:
        _check_tasks(given.tasks, parsed.config)
    check_sizes(parsed.config)
    prompts.load(parsed.config.prompts, parsed.config.tool_format)  # or its mistake
    return parsed.config, parsed.options


def _check_tasks(file: str, config: Config) -> None:
    """Refuses what an option behind ``--tasks FILE`` says against it."""
    if config.tasks.file != file:
        raise UserError(
            f"--tasks {file}: --tasks.file {config.tasks.file} names another file: "
            "leave one of them out"
        )
    if steps := config.challenger_train.steps:
        raise UserError(
            f"--tasks {file}: trains no Challenger, --challenger_train.steps {steps} "
            f"does: leave that out, or give --tasks.file {file} instead"
        )


def parse_alone(
    options: type[Options], argv: Sequence[str], *, prog: str, about: str | None
) -> Options:
    """Options of a script without a configuration; arguments and errors as `parse`.

    Args:
      options: dataclass in which every field has a default.
      about: what ``--help`` says first.
    """
    return _parse(list(argv), {"options": options()}, prog, about or "").options


class ArgumentParser(argparse.ArgumentParser):
    """For scripts with few options; a mistake is one line here too."""

    def __init__(self, **options: Any):
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**options)

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[override]
        """As argparse's, of arguments that are text."""
        args = sys.argv[1:] if args is None else args
        _check_text(args)
        for token in args:
            option, _, value = token.partition("=")
            if value == "--" and option in self._option_string_actions:
                # argparse drops such a value, and gives the option an empty list.
                raise UserError(f"{token}: is no value: give one, or leave it out")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raises ``UserError`` instead of printing how the script is used."""
        raise UserError(f"{message}: see {self.prog} --help")


def run_main(main: Callable[[Sequence[str]], int | None]) -> NoReturn:
    """Runs a script to the end of the process.

    What a user can mend is one ``error: ...`` line: exit code 2 for a mistake or a
    damaged file, 1 for a disk that refuses a write. What had to end before its end
    (``Stopped``) says why, and with which code.
    """
    try:
        code = main(sys.argv[1:])
    except UserError as error:
        said = as_given(" ".join(str(error).split()), sys.argv[1:])
        print(f"error: {printable(said)}", file=sys.stderr)
        code = 2
    except Stopped as stopped:
        print(printable(str(stopped)), file=sys.stderr)
        code = stopped.code
        if stopped.at_once:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    except StorageError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        # The reader of our output (such as `head`) has left: nothing to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        if error.filename is None or error.errno not in (*BAD_NAMES, *storage.REFUSALS):
            raise
        name, code = str(error.filename), 2 if error.errno in BAD_NAMES else 1
        if code == 1:
            print(f"error: {storage.describe(name, error.errno)}", file=sys.stderr)
        else:
            shown = name if len(name) <= 80 else f"{name[:40]}...{name[-30:]}"
            print(
                f"error: {shown}: {os.strerror(error.errno)}: give another name",
                file=sys.stderr,
            )
    sys.exit(code or 0)


BAD_NAMES = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
BAD_NAMES += (errno.EEXIST,)  # where a folder is to be made, a file is
"""What the system says of a path that cannot be."""


def _check_text(argv: Sequence[str]) -> None:
    """Refuses bytes that are not UTF-8: no file of a run could hold them."""
    for token in argv:
        if (shown := encodable(token)) != token:
            raise UserError(f"{shown}: not UTF-8 text: write it in another way")


HELP_ALL = ("--help-all", "--help_all")


def _asks_for_help(argv: Sequence[str]) -> bool:
    return any(token in ("-h", "--help", *HELP_ALL) for token in argv)


_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def _checked(argv: list[str], parts: Sequence[Any]) -> list[str]:
    """The same arguments with known names only, and one spelling for switches.

    A switch may be written ``--x``, ``--x true``, ``--no-x`` or ``--a.no-x``.
    """
    known = {name: hint for part in parts for name, hint, _ in leaves(part)}
    out, i = [], 0
    while i < len(argv):
        token = argv[i]
        i += 1
        if not token.startswith("--"):
            if not out:
                raise UserError(
                    f"{token}: does not belong to a field: write --field value"
                )
            out.append(token)
            continue
        flag, equals, value = token[2:].partition("=")
        name = flag.replace("-", "_")
        positive = re.sub(r"(^|\.)no_([^.]+)$", r"\1\2", name)
        if name in known and known[name] is bool:
            if not equals and i < len(argv) and not argv[i].startswith("--"):
                equals, value, i = "=", argv[i], i + 1
            if equals and value.lower() not in _TRUE + _FALSE:
                raise UserError(f"--{name} {value}: expected true or false")
            on = not equals or value.lower() in _TRUE
            out += [f"--{name}", str(on)]
        elif name in known:
            out += [f"--{name}", value] if equals else [f"--{name}"]
        elif known.get(positive) is bool and not equals:
            out += [f"--{positive}", "False"]
        else:
            raise UserError(_unknown(flag, name, list(known)))
    return out


def _unknown(flag: str, name: str, known: list[str]) -> str:
    if inside := [n for n in known if n.startswith(name + ".")]:
        return f"--{flag}: is a section: set one of its fields, such as --{inside[0]}"
    last = name.rsplit(".", 1)[-1]
    near = [n for n in known if n.rsplit(".", 1)[-1] == last][:3]
    near = near or [n for n in (closest(name, known),) if n]
    shown = " or ".join(f"--{n}" for n in near)
    remedy = f"did you mean {shown}?" if near else "see --help-all for all of them"
    return f"--{flag}: no such field: {remedy}"


def _parse(argv: list[str], parts: dict[str, Any], prog: str, about: str) -> Any:
    """Parses with tyro, whose error boxes become one-line errors.

    Args:
      parts: name -> settings whose fields can be set, all of them without a prefix.

    Returns:
      An object with an attribute for each of ``parts``.
    """
    if _asks_for_help(argv):
        # Not by tyro, which would join the lines of a description.
        print(about.strip() + "\n")
    else:
        _check_text(argv)
        argv = _checked(argv, list(parts.values()))
    types = [
        (name, Annotated[type(part), tyro.conf.arg(name="")])
        for name, part in parts.items()
    ]
    arguments = make_dataclass("Arguments", types, frozen=True)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                arguments,
                default=arguments(**parts),
                args=argv,
                prog=prog,
                config=(tyro.conf.FlagConversionOff,),
            )
    except ValueError as error:
        raise UserError(refused("", str(error), argv)) from error
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(condense(said.getvalue(), argv)) from None
