"""Documentation pages that are made from the code; ``scripts/docs.py`` writes them."""
