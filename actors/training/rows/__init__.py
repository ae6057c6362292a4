"""Rows with what is right for them, from any source: listed once, read in any order, decoded as the pipeline does."""
