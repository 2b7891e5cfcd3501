"""The small world: a fictional encyclopedia and a small model that can play in it."""
