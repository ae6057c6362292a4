"""How much every exit counts in deep supervision."""

from collections.abc import Sequence
from typing import Literal

Weights = Literal["mean_plus_last", "mean", "index", "coefficient"]


def exit_weights(exits: Sequence[int], weights: Weights, coefficient: float = 1.0) -> list[float]:
    """Exit layers, the last one included -> the weight of each one's loss.

    mean_plus_last: DEED (arXiv 2311.08623), `mean_i(L_i) + L_N`, because the mean alone degrades the last layer;
    index: CALM (arXiv 2207.07061), proportional to the layer; coefficient: 1 for the last, that for every other.
    """
    if weights == "index":
        return [layer / sum(exits) for layer in exits]
    if weights == "coefficient":
        return [coefficient] * (len(exits) - 1) + [1.0]
    shares = [1 / len(exits)] * len(exits)
    if weights == "mean_plus_last":
        shares[-1] += 1.0
    return shares
