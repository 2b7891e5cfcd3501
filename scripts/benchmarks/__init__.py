"""Measurements beside other libraries; ``scripts/bench.py`` runs them.

A benchmark is a module with ``add_arguments(parser)`` and ``run(args) -> Result``. A
peer (``peer_*.py``) is a script that another Python interpreter runs, so that its
packages need not be installed with ours; see ``harness.Peer``.
"""
