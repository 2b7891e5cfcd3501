"""tiny"""

from scope_jax.config import Config, ModelConfig


def config():
    return Config(name="tiny", model=ModelConfig(path="demo"))
