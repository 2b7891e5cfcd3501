"""Self-play: the loop over iterations, its three stages, and what they play against.

May import every room of ``scope_jax`` but ``evaluation``.
"""
