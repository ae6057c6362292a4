"""A bet against a promise: a test that may be looked at after every image, however often, and stopped at any time.

Somebody bets, image by image, that losses in [0, 1] are larger than promised, and begins with a wealth of 1. Losses
whose mean is at most the promised `risk`, given what came before, make every bet fair or worse; so the wealth is a
nonnegative supermartingale, and by Ville's inequality it ever reaches 1/delta with a probability of at most delta
(Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", arXiv 2010.09686, sections 3, 4).

The bet is a mixture: shares of the first wealth are each bet by one bettor, who expects one mean of the losses and has
the bet that grows fastest where they are 0 or 1 and that is their mean. What the mixture stakes on an image depends on
those before it alone. And a bettor's wealth is a product over images: in which order they came does not matter, so that
many actors may tell of them as they like, and a run that goes on has the wealth it had.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

# (mean expected, in times the risk; share of the first wealth): half is for a rate twice as bad.
_BETTORS = ((1.3, 0.05), (1.6, 0.15), (2.0, 0.5), (3.0, 0.1), (5.0, 0.1), (10.0, 0.05), (30.0, 0.05))

_MOST_LOG = 690.0  # of a double


def stakes(risk: float) -> tuple[np.ndarray, np.ndarray]:
    """Return what the bettors stake for each unit that a loss is above the risk, and the logs of their first wealth.

    The stake of one who expects the mean m is (m - risk) / (risk (1 - risk)), and m at most half-way from the risk to
    1: a wealth is multiplied by at least 1/2, and never lost.
    """
    times, shares = (np.array(column) for column in zip(*_BETTORS, strict=True))
    means = np.minimum(times * risk, (1 + risk) / 2)
    return (means - risk) / (risk * (1 - risk)), np.log(shares)


@dataclass(slots=True)
class Wealth:
    """What somebody has who bet on more loss than `risk`; `delta`: probability of a false alarm, at most."""

    risk: float
    delta: float
    num_losses: int = 0
    alarm_at: int | None = None  # losses that had come when 1/delta was reached; None: it never was
    _stakes: np.ndarray = field(init=False, repr=False)
    _logs: np.ndarray = field(init=False, repr=False)  # of the wealth of each bettor

    def __post_init__(self) -> None:
        assert 0 < self.risk < 1, self.risk
        assert 0 < self.delta < 1, self.delta
        self._stakes, self._logs = stakes(self.risk)

    def take(self, losses: Iterable[float]) -> None:
        """Take further losses in."""
        for loss in losses:
            assert 0 <= loss <= 1, loss
            self.num_losses += 1
            self._logs = self._logs + np.log1p(self._stakes * (loss - self.risk))
            if self.alarm_at is None and self.log >= -math.log(self.delta):
                self.alarm_at = self.num_losses

    @property
    def log(self) -> float:
        """Return the natural logarithm of the wealth."""
        most = float(self._logs.max())
        return most + math.log(float(np.exp(self._logs - most).sum()))

    @property
    def value(self) -> float:
        """Return the wealth, as far as a number can hold it."""
        return math.exp(min(self.log, _MOST_LOG))


def images_to_see(risk: float, rate: float, delta: float) -> int | None:
    """Return after about how many images on average the best bet notices that losses of 0 or 1 have the mean `rate`.

    That is ln(1/delta) over the growth of its log-wealth by an image, the divergence KL(rate || risk). None where
    `rate` is no mean above the risk.
    """
    if not risk < rate <= 1:
        return None
    growth = rate * math.log(rate / risk)
    if rate < 1:
        growth += (1 - rate) * math.log((1 - rate) / (1 - risk))
    return round(-math.log(delta) / growth)
