"""Pillow behind guards: what a file is, what its metadata may cost, what decoding it may cost, and its colours."""
