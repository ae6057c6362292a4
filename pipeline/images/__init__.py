"""Image bytes to RGB pixels, or an error that says why not."""
