"""Evaluation: true scores in the small world, judge scores on any prompts.

May import every other room of ``scope_jax``; nothing but scripts imports it.
"""
