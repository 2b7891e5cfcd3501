"""Serves search and models, as a run's trainer otherwise does by itself.

    python scripts/serve.py --config tiny --inference.port 8000

A run uses it with ``--inference.url http://HOST:8000``. Without ``--models``, the
configuration's base model is served, as ``judge`` and as ``solver``.
"""

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import check_packages  # noqa: F401
import configs
from models.errors import UserError
from scope_jax.inference import ModelSource, ServerSettings
from scope_jax.run import cli


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Options of this server only."""

    models: tuple[str, ...] = ()
    """Models to serve, as NAME=FOLDER. Default: the base model."""
    log: Path | None = None
    """File for the server's log. None: only warnings, on the terminal."""


def sources(options: ServeOptions, base: str) -> dict[str, ModelSource]:
    """Name -> weights, as the command line asks for them."""
    models = {}
    for entry in options.models or (f"judge={base}", f"solver={base}"):
        name, equals, path = entry.partition("=")
        if not (name and equals and path):
            raise UserError(
                f"--models {entry}: expected NAME=FOLDER, as in judge=my/model"
            )
        models[name] = ModelSource(path=path)
    return models


def main(argv: Sequence[str]) -> int:
    config, options = cli.parse(argv, configs, options=ServeOptions, prog="serve.py")
    placement = config.placement.inference
    # Before JAX looks for devices.
    os.environ.update(placement.environment())
    from scope_jax.inference import server
    from scope_jax.small_world.assets import resolve

    config = resolve(config)
    level = logging.INFO if options.log else logging.WARNING
    logging.basicConfig(
        filename=options.log, level=level, format="%(asctime)s %(message)s"
    )
    settings = ServerSettings(
        inference=config.inference,
        retrieval=None if config.inference.retrieval_url else config.retrieval,
        models=sources(options, config.model.path),
        replicas=placement.replicas,
    )
    return server.serve(settings, announce=lambda line: print(line, flush=True))


if __name__ == "__main__":
    cli.run_main(main)
