"""Serves search and models, as a run's trainer otherwise does by itself.

    python scripts/serve.py --config tiny --inference.port 8000

A run uses it with ``--inference.url http://HOST:8000`` and the control secret, which
the server prints where to find. Without ``--models``, the configuration's base model is
served, as ``judge`` and as ``solver``. Keys and limits: docs/serving.md.
"""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import check_packages  # noqa: F401
import configs
from models.errors import UserError
from scope_jax.inference import ModelSource, ServerSettings, access
from scope_jax.inference.access import Secrets, new_secret
from scope_jax.run import cli
from scope_jax.run.mistakes import check_file


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Options of this server only."""

    models: tuple[str, ...] = ()
    """Models to serve, as NAME=FOLDER. Default: the base model, and what judges one
    job in its place."""
    roots: tuple[Path, ...] = (Path("runs"),)
    """Folders below which a run may choose the models that are served: its own folder
    has to be in one of them."""
    log: Path | None = None
    """File for the server's log. None: only warnings, on the terminal."""


def sources(
    options: ServeOptions, base: str, judges: dict[str, str]
) -> dict[str, ModelSource]:
    """Name -> weights, as the command line asks for them."""
    models = {}
    usual = [("judge", base), ("solver", base), *judges.items()]
    for entry in options.models or ("=".join(pair) for pair in usual):
        name, equals, path = entry.partition("=")
        if not (name and equals and path):
            raise UserError(
                f"--models {entry}: expected NAME=FOLDER, as in judge=my/model"
            )
        models[name] = ModelSource(path=path)
    return models


@contextlib.contextmanager
def control_secret(given: Secrets) -> Iterator[Secrets]:
    """``given`` with a control secret; a new one is in a file that its owner reads."""
    if given.control:
        yield given
        return
    given = replace(given, control=new_secret())
    descriptor, name = tempfile.mkstemp(prefix="scope-control-")  # mode 600
    try:
        with open(descriptor, "w") as file:
            file.write(given.control + "\n")
        print(
            "the run that uses this server needs its control secret:\n"
            f"  SCOPE_CONTROL_SECRET_FILE={name} python scripts/train.py "
            "--inference.url http://HOST:PORT ...",
            flush=True,
        )
        yield given
    finally:
        os.unlink(name)


def main(argv: Sequence[str]) -> int:
    config, options = cli.parse(argv, configs, options=ServeOptions, prog="serve.py")
    placement = config.placement.inference
    # Before JAX looks for devices.
    os.environ.update(placement.environment())
    from scope_jax.inference import server
    from scope_jax.small_world.assets import resolve

    config = resolve(config)
    if options.log:
        check_file("--log", options.log)
        options.log.parent.mkdir(parents=True, exist_ok=True)
    level = logging.INFO if options.log else logging.WARNING
    logging.basicConfig(
        filename=options.log, level=level, format="%(asctime)s %(message)s"
    )
    settings = ServerSettings(
        inference=config.inference,
        retrieval=None if config.inference.retrieval_url else config.retrieval,
        models=sources(options, config.model.path, config.inference.judges()),
        model_roots=tuple(str(root.absolute()) for root in options.roots),
        dtype=config.model.dtype,
        replicas=placement.replicas,
    )
    given = Secrets.from_environment()
    access.check_reach(config.inference.host, given.api)
    access.forget()
    with control_secret(given) as given:
        return server.serve(
            settings, given, announce=lambda line: print(line, flush=True)
        )


if __name__ == "__main__":
    cli.run_main(main)
