"""Configuration files that scripts/init.py writes."""
