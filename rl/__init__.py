"""Reinforcement learning of a language model, independent of tasks and roles.

``engine`` samples, ``learner`` updates, ``records`` pass between them, ``memory`` adds
up the bytes of both. May import ``models``.
"""
