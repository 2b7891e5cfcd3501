"""SCOPE in JAX: the method, self-play, the inference process, evaluation, reports.

May import ``rl``, ``retrieval`` and ``models``.
"""
