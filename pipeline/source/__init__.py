"""Where rows come from: shards, their names and indexes, prompts, and patience with storage."""
