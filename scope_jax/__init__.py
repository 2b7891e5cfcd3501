"""SCOPE in JAX: the method, the inference process, evaluation and the small world."""
