"""Exits for a model that stays as it is."""
