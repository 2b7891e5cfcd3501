"""A run as a person sees it: command line, run folder, metrics, memory plan, export.

May import ``scope_jax.config``, ``small_world`` and what lies below them.
"""
