"""Training a pretrained model to exit early."""
