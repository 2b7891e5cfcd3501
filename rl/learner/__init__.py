"""Trains on scored rollouts: advantages, packing, loss, optimizer, checkpoints.

May import ``models`` and ``rl.records``, but not ``rl.engine``.
"""
