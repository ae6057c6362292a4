"""Folders of images: walking them, their shards, and the fields of sidecars and metadata files."""
