"""Measurements beside others on the same machine; ``scripts/bench.py`` runs them.

A benchmark is a module with ``add_arguments(parser)`` and ``run(args) -> Result``. A
peer is a script that another Python interpreter runs, so that its packages need not
live with ours; see ``harness.Peer``.
"""
