"""The inference process: retrieval, judge and previous Solver behind HTTP."""
