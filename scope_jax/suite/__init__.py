"""The benchmark suite as pure functions: rows, readers, judges' prompts, scores.

What is asked of models and judges, and what their words are worth (spec 13); the calls
are made in ``evaluation``. Imports ``method`` and ``system``.
"""
