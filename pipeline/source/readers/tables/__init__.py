"""Records of CSV, JSONL and Parquet: where they are, and what their cells say."""
