"""Weights that are several matrices side by side."""


def attention_parts(name: str) -> int:
    """Return how many equal matrices the weight of a module of this name holds: q, k and v; k and v; or one."""
    return 3 if "qkv" in name else 2 if "kv" in name else 1
