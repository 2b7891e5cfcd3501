"""The behaviour of the reference's released code wherever this program's differs.

Every switch of ``compat``, each a row in the specification's list of quirks (spec 15):
to compare with the reference, not to train better.
"""

from dataclasses import replace

from scope_jax.config import Config
from scope_jax.method.compat import Compat


def apply(config: Config) -> Config:
    """The same run with every switch on."""
    return replace(config, compat=Compat.released())
