"""The slow twins that say what the engine must say."""
