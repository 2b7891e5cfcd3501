"""Evaluation: true scores on the small world, judge scores on any prompts."""
