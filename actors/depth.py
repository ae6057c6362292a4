"""How deep completions went, and how far they say what full depth says."""

import itertools
from collections.abc import Sequence

from actors.engine.request import Completion

TokenIds = Sequence[int]


def mean_depth(completions: Sequence[Completion]) -> float:
    """Return the mean number of decoder layers per decoding step."""
    depths = [layer for completion in completions for layer in completion.exit_layers]
    return sum(depths) / len(depths)


def computed_depth(completions: Sequence[Completion]) -> float:
    """Return the mean number of decoder layers that are computed per decoding step where features are just in time.

    A step that goes deep makes all earlier ones of its output catch up, so each is computed as deep as the deepest from
    there on.
    """
    depths: list[int] = []
    for completion in completions:
        depths += itertools.accumulate(reversed(completion.exit_layers), max)
    return sum(depths) / len(depths)


def agreement(said: Sequence[TokenIds], full: Sequence[TokenIds]) -> tuple[float, float]:
    """Return (share of equal outputs, share of equal tokens at equal positions) against full depth."""
    pairs = [(tuple(a), tuple(b)) for a, b in zip(said, full, strict=True)]
    equal_tokens = sum(x == y for a, b in pairs for x, y in zip(a, b, strict=False))
    return sum(a == b for a, b in pairs) / len(pairs), equal_tokens / max(1, sum(max(len(a), len(b)) for a, b in pairs))
