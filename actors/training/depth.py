"""How deep completions went, and how far they say what full depth says."""

from collections.abc import Sequence

from actors.engine.request import Completion
from pipeline.report.work import Work, layers_run

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
    layers = [layers_run(completion.exit_layers, Work.CATCHING_UP, None) or 0 for completion in completions]
    return sum(layers) / sum(len(completion.exit_layers) for completion in completions)


def agreement(said: Sequence[TokenIds], full: Sequence[TokenIds]) -> tuple[float, float]:
    """Return (share of equal outputs, share of equal tokens at equal positions) against full depth."""
    pairs = [(tuple(a), tuple(b)) for a, b in zip(said, full, strict=True)]
    equal_tokens = sum(x == y for a, b in pairs for x, y in zip(a, b, strict=False))
    return sum(a == b for a, b in pairs) / len(pairs), equal_tokens / max(1, sum(max(len(a), len(b)) for a, b in pairs))
