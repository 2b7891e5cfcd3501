"""Ablations in the small world: arms, their runs, summaries, tables and the board.

``scripts/ablate.py`` is the command. Everything that an arm changes is an option of
``scripts/train.py``.
"""
