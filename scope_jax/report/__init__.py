"""The page about a run: curves, tables and rollouts in one HTML file.

May import ``scope_jax.run`` and what lies below it.
"""
