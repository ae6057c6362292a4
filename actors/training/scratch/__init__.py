"""Deep supervision from nothing: every weight trains."""
