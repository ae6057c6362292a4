"""Gates as predictors of failure: what each says of every exit's tokens, and how well it tells right from wrong."""
