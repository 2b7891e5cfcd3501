"""Makes the small world's model from nothing: transcripts, tokenizer, training, probe.

No part of a run; ``scripts/warmstart.py`` is its command. Tests import it as
``pretraining`` (``scripts`` is on pytest's path).
"""
