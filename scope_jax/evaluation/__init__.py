"""Evaluation: true scores in the small world, any models on benchmarks and prompts.

May import every other room of ``scope_jax``; nothing but scripts imports it.
"""
