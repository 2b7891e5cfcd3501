"""Samples completions: continuous batching over a paged KV cache.

May import ``models`` and ``rl.records``, but not ``rl.learner``.
"""
