"""Reinforcement learning on token sequences: sampler, losses, update, checkpoints."""
