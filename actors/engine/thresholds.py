"""How sure an exit must be at a position. Pure Python."""

import math
from dataclasses import dataclass

NEVER = 1.0  # no confidence is above it, so an exit whose threshold is higher can never fire


@dataclass(frozen=True, slots=True)
class Decay:
    """CALM's falling threshold (arXiv 2207.07061, section 3.5): early tokens, which all later ones read, need more.

    threshold(t) = min(1, 0.9 * threshold + 0.1 * exp(-rate * t / horizon)) at position t.
    """

    rate: float
    horizon: int  # the longest output, in tokens

    def at(self, threshold: float, position: int) -> float:
        """The threshold at `position`; 0 (always leave) and those above 1 (never leave) stay what they are."""
        if threshold > NEVER or threshold <= 0:
            return threshold
        return min(NEVER, 0.9 * threshold + 0.1 * math.exp(-self.rate * position / self.horizon))


def threshold_at(threshold: float, position: int, decay: Decay | None) -> float:
    return threshold if decay is None else decay.at(threshold, position)


def reachable(exit_layers: tuple[int, ...], thresholds: tuple[float, ...]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Leave out the exits that can never fire: their segments become one visit with no gate in between."""
    kept = [index for index, threshold in enumerate(thresholds) if threshold <= NEVER]
    return (*(exit_layers[index] for index in kept), exit_layers[-1]), tuple(thresholds[index] for index in kept)
