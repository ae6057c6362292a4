"""Losses of a random sample -> what can be promised about all images: upper bounds of a mean, without any assumption
about how losses are distributed but that each is in [0, 1].

A sample is drawn without replacement and treated as if it were drawn with it, which is the safe side: its mean is the
more concentrated of the two (Hoeffding 1963, section 6).

Shape suffix: I images.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta, binom

from conf.errors import UserError
from conf.evaluation import PromiseConfig
from conf.guarantee import Method

_BISECTIONS = 50
_STAKES = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Judge:
    """Decides whether a sample of losses keeps `risk`.

    `binary`: all losses that can occur are 0 or 1. `level` is not looked at by conformal_risk_control, whose bound is
    one in expectation.
    """

    method: Method
    risk: float
    level: float
    binary: bool

    @classmethod
    def of(cls, promise: PromiseConfig) -> "Judge":
        assert promise.risk is not None, "nothing is to be promised"
        return cls(promise.method, promise.risk, promise.level, promise.loss == "text_differs")

    def check(self, images: int) -> None:
        """Raise UserError if so many images can never keep the risk, whatever their losses are."""
        needed = self.images_needed()
        if images < needed:
            raise UserError(
                f"a risk of {self.risk:g} {self.certainty} can never be shown by {images:,} images, even if none "
                f"of them loses anything: {needed:,} are needed at least, and more to allow for any that does "
                "(guarantee.sample_images), or a larger risk"
            )

    @property
    def certainty(self) -> str:
        """Say how sure a promise is."""
        return "in expectation" if self.method == "conformal_risk_control" else f"with probability {self.level:g}"

    def accepts(self, loss_I: np.ndarray) -> bool:
        """Return whether the bound is at most the risk."""
        if self.method == "betting":
            return wins_bets(loss_I, self.risk, self.level)
        if self.method == "learn_then_test" and not self.binary:
            return p_hoeffding_bentkus(float(loss_I.mean()), len(loss_I), self.risk) <= 1 - self.level
        return self.upper_bound(loss_I) <= self.risk

    def upper_bound(self, loss_I: np.ndarray) -> float:
        """Return the bound of the mean loss of all images, from the losses of a sample."""
        assert len(loss_I), "a bound needs losses"
        assert 0 <= loss_I.min() <= loss_I.max() <= 1, "losses are in [0, 1]"
        if self.method == "conformal_risk_control":
            return in_expectation(loss_I)
        if self.method == "betting":
            return _least(lambda mean: wins_bets(loss_I, mean, self.level), 0.0)
        return exact_binomial(loss_I, self.level) if self.binary else hoeffding_bentkus(loss_I, self.level)

    def images_needed(self) -> int:
        """Return how large a sample must be to keep the risk if not a single loss in it is above 0."""
        high = 1
        while not self.accepts(np.zeros(high)):
            high *= 2
        return 1 + _last(lambda count: count == 0 or not self.accepts(np.zeros(count)), high)

    def allowed(self, images: int) -> int | None:
        """Return the most images of a sample that may have a loss of 1 if all others have 0; None: not even 0 may."""

        def accepted(failures: int) -> bool:
            return self.accepts(np.arange(images) < failures)

        return _last(accepted, images) if accepted(0) else None

    def chance(self, images: int, true_risk: float) -> float:
        """Return how likely a sample is to keep the risk where a share of `true_risk` of all images has a loss of 1."""
        allowed = self.allowed(images)
        return 0.0 if allowed is None else float(binom.cdf(allowed, images, true_risk))


def interval(loss_I: np.ndarray, level: float, *, binary: bool) -> tuple[float, float]:
    """Return bounds between which the mean of all losses is with at least this probability: Clopper-Pearson's where
    they are 0 or 1."""
    one_sided = (1 + level) / 2
    bound = exact_binomial if binary else hoeffding_bentkus
    return 1 - bound(1 - loss_I, one_sided), bound(loss_I, one_sided)


def exact_binomial(loss_I: np.ndarray, level: float) -> float:
    """Return Clopper and Pearson's upper bound of the share of losses of 1: the largest share at which a binomial
    p-value, P(no more of them in so many images), is above 1 - level."""
    count, failures = len(loss_I), int(loss_I.sum())
    return 1.0 if failures == count else float(beta.ppf(level, failures + 1, count - failures))


def p_hoeffding_bentkus(mean: float, count: int, risk: float) -> float:
    """Return a p-value of "the mean of all losses is above `risk`", from the mean of `count` of them.

    The smaller one of Hoeffding's tail and e times Bentkus's binomial (Bates et al., arXiv 2101.02703, section 3.1;
    Angelopoulos et al., arXiv 2110.01052, proposition 4).
    """
    low = min(mean, risk)
    hoeffding = math.exp(-count * _divergence(low, risk))
    failures = math.ceil(count * mean - 1e-9)  # a sum of fractions may miss a whole number
    return min(1.0, hoeffding, math.e * float(binom.cdf(failures, count, risk)))


def hoeffding_bentkus(loss_I: np.ndarray, level: float) -> float:
    """Return the largest risk at which that p-value is above 1 - level."""
    mean = float(loss_I.mean())
    return _least(lambda risk: p_hoeffding_bentkus(mean, len(loss_I), risk) <= 1 - level, mean)


def wins_bets(loss_I: np.ndarray, mean: float, level: float) -> bool:
    """Return whether betting against "the mean of all losses is `mean` or more" has made a capital of 1 at least
    1 / (1 - level), which happens with a probability of at most 1 - level where that is true.

    Every loss multiplies a capital by 1 - stake (loss - mean). The capital is shared among a few stakes, each of which
    is best for some share of losses below the mean, so that nothing is tuned and the order does not matter (the
    capital process of Waudby-Smith and Ramdas, arXiv 2010.09686, section 4, with fixed stakes side by side).
    """
    with np.errstate(divide="ignore"):  # a stake of 1 against a mean of 0 loses everything to a loss of 1
        capitals = [float(np.log1p(-stake * (loss_I - mean)).sum()) for stake in _STAKES]
    return bool(np.logaddexp.reduce(capitals) - math.log(len(_STAKES)) >= -math.log(1 - level))


def in_expectation(loss_I: np.ndarray) -> float:
    """Return what conformal risk control keeps at most at the risk (arXiv 2208.02814, theorem 1): the mean loss, with
    one more image whose loss is 1. Losses must not fall along the path."""
    return float((loss_I.sum() + 1) / (len(loss_I) + 1))


def _divergence(low: float, risk: float) -> float:
    """Return the Kullback-Leibler divergence of two coins."""
    first = low * math.log(low / risk) if low > 0 else 0.0
    return first + ((1 - low) * math.log((1 - low) / (1 - risk)) if low < 1 and risk < 1 else 0.0)


def _least(holds: Callable[[float], bool], low: float) -> float:
    """Return the least value in [low, 1] for which something holds that holds for all larger ones; 1 where none does.

    What is returned is never below it.
    """
    high = 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _last(holds: Callable[[int], bool], high: int) -> int:
    """Return the last number in [0, high) for which something holds that holds for 0 and for none after it."""
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
