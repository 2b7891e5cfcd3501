"""The small world: a fictional encyclopedia and the files that ship with it.

May import ``scope_jax.config`` and ``models``. What makes its model is in
``scripts/pretraining``.
"""
