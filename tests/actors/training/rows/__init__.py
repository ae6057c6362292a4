"""Rows of any source."""
