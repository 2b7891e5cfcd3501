"""Reinforcement learning on token sequences: sampler, engine, losses, update, checkpoints."""
