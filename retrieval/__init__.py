"""Search over passages: memory-mapped text, encoders, FAISS index.

May import ``models`` and no other package of this repository.
"""
