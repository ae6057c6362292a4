"""Checkpoints of `transformers` <-> ours: one small file per family, and the code that applies them."""
