"""Is a promise kept as often as it says? Many samples of one population of losses, each judged on its own.

Shape suffixes: V vectors of thresholds along a path, from strict to loose; I images; D draws.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from actors.training.guarantee.bounds import Judge

_UNLIKELY = 0.99  # more broken promises than this quantile allows are not bad luck


@dataclass(frozen=True)
class Population:
    """Losses of all images of a corpus at every vector of a path."""

    name: str
    loss_VI: np.ndarray
    binary: bool


@dataclass(frozen=True)
class Validity:
    """What came of many draws."""

    broken: int  # draws whose chosen vector loses more than the risk, over the images that were not drawn
    mean_D: np.ndarray  # what the chosen vector loses on those; 0 at full depth
    chosen_D: np.ndarray  # how many vectors were accepted

    def may_break(self, judge: Judge) -> int:
        """Return how many of the draws may break the promise before that is no bad luck."""
        return int(binom.ppf(_UNLIKELY, len(self.mean_D), 1 - judge.level))

    def holds(self, judge: Judge) -> bool:
        """Return whether the promise was kept as often as promised, or in the mean over draws."""
        if judge.method != "conformal_risk_control":
            return self.broken <= self.may_break(judge)
        error = self.mean_D.std(ddof=1) / np.sqrt(len(self.mean_D))
        return bool(self.mean_D.mean() - 2.33 * error <= judge.risk)


def accepted_vectors(loss_VI: np.ndarray, judge: Judge) -> int:
    """Return how many vectors of a path a sample accepts before one fails, as deed calibrate does."""
    if judge.method == "conformal_risk_control":
        loss_VI = np.maximum.accumulate(loss_VI, axis=0)
    for number, loss_I in enumerate(loss_VI):
        if not judge.accepts(loss_I):
            return number
    return len(loss_VI)


def resample(population: Population, judge: Judge, sample_images: int, draws: int, seed: int) -> Validity:
    """Draw samples without replacement and see what each of them promises."""
    loss_VI, rng = population.loss_VI, np.random.default_rng(seed)
    num_images, total_V = loss_VI.shape[1], loss_VI.sum(axis=1)
    means, chosen = [], []
    for _ in range(draws):
        sampled_VI = loss_VI[:, rng.choice(num_images, sample_images, replace=False)]
        count = accepted_vectors(sampled_VI, judge)
        lost = total_V[count - 1] - sampled_VI[count - 1].sum() if count else 0.0
        means.append(lost / (num_images - sample_images))
        chosen.append(count)
    mean_D = np.array(means)
    return Validity(int((mean_D > judge.risk).sum()), mean_D, np.array(chosen))


def populations(risk: float, num_images: int, seed: int, vectors: int = 24) -> Iterator[Population]:
    """Yield populations of several shapes whose mean losses pass `risk` somewhere on the path."""
    rng = np.random.default_rng(seed)
    rate_V = np.linspace(0, 3 * risk, vectors + 1)[1:, None]
    differs_VI = rng.random(num_images) < rate_V  # an image that has changed stays changed
    how_much_I = rng.beta(2, 5, num_images)
    few_I = np.where(rng.random(num_images) < 0.1, 1.0, how_much_I / 4)
    just_above_I = rng.permutation(num_images) < np.ceil(1.02 * risk * num_images)
    yield Population("texts change, more and more", differs_VI.astype(float), True)
    yield Population("texts change and change back", (rng.random((vectors, num_images)) < rate_V).astype(float), True)
    yield Population("just above the risk at once", np.stack([just_above_I.astype(float)] * vectors), True)
    yield Population("similar texts", (rng.random(num_images) < 3 * rate_V) * how_much_I, False)
    yield Population("a few texts lose all", (rng.random(num_images) < 3 * rate_V) * few_I, False)
    parts_I = (rng.random(num_images) < 2.5 * risk) * rng.random(num_images)
    parts_I *= 1.02 * risk / parts_I.mean()
    yield Population("just above the risk, in parts", np.stack([parts_I] * vectors), False)
