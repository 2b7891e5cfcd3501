"""Search over passages: memory-mapped text, encoders, FAISS index."""
