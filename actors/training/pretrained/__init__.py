"""Exits for a model that exists: by deep supervision, or on a backbone that stays as it is."""
