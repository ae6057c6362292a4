"""Beam search at full depth, an engine of its own."""
