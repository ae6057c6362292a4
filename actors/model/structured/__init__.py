"""What is in the texts of models that speak in tags, as values."""
