"""Encoders whose classes come from `transformers`; nothing is downloaded and no code of a checkpoint is run."""
