"""The inference process: retrieval, judge and previous Solver behind HTTP.

``server`` is the process, ``client`` talks to it, ``supervisor`` keeps it alive.
"""

from scope_jax.inference.config import InferenceConfig, ModelSource, ServerSettings

__all__ = ["InferenceConfig", "ModelSource", "ServerSettings"]
