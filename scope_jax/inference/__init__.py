"""The inference process: retrieval, judge and previous Solver behind HTTP.

``server`` is the process, ``client`` talks to it, ``supervisor`` restarts it. May
import ``scope_jax.method`` and ``scope_jax.system``, and the packages below.
"""

from scope_jax.inference.config import InferenceConfig, ModelSource, ServerSettings

__all__ = ["InferenceConfig", "ModelSource", "ServerSettings"]
