"""A promise is broken no more often than it says, over many draws; and a test that is none is caught."""

from dataclasses import dataclass

import numpy as np
import pytest

from actors.training.guarantee.bounds import Judge
from actors.training.guarantee.simulation import Population, accepted_vectors, populations, resample
from conf.guarantee import Method

RISK, LEVEL, SAMPLE, DRAWS = 0.05, 0.9, 300, 200
POPULATIONS = {population.name: population for population in populations(RISK, 4000, seed=3, vectors=12)}


@pytest.mark.parametrize("method", ["learn_then_test", "betting", "conformal_risk_control"])
@pytest.mark.parametrize("name", POPULATIONS)
def test_promises_are_kept_as_often_as_they_say(name: str, method: Method) -> None:
    population = POPULATIONS[name]
    judge = Judge(method, RISK, LEVEL, population.binary)
    seen = resample(population, judge, SAMPLE, DRAWS, seed=1)
    assert seen.holds(judge), f"broken {seen.broken} times of {DRAWS}"


def test_the_least_favourable_losses_use_up_what_is_allowed() -> None:
    """With losses just above the risk on the whole path a promise is made, and broken, about as often as may be."""
    judge = Judge("learn_then_test", RISK, LEVEL, binary=True)
    seen = resample(POPULATIONS["just above the risk at once"], judge, SAMPLE, 1000, seed=2)
    assert 0.03 < seen.broken / 1000 < 0.13


@dataclass(frozen=True)
class MeanAlone(Judge):
    """What one would do without statistics: the mean of the sample is the mean of all."""

    def accepts(self, loss_I: np.ndarray) -> bool:
        return float(loss_I.mean()) <= self.risk


def test_a_sample_mean_alone_is_no_promise() -> None:
    judge = MeanAlone("learn_then_test", RISK, LEVEL, binary=True)
    seen = resample(POPULATIONS["texts change, more and more"], judge, SAMPLE, DRAWS, seed=1)
    assert not seen.holds(judge)


def test_half_the_risk_succeeds_as_often_as_is_said() -> None:
    judge = Judge("learn_then_test", RISK, LEVEL, binary=True)
    losses_I = (np.random.default_rng(0).permutation(4000) < 0.5 * RISK * 4000).astype(float)
    seen = resample(Population("half", losses_I[None], binary=True), judge, SAMPLE, DRAWS, seed=0)
    assert (seen.chosen_D == 1).mean() == pytest.approx(judge.chance(SAMPLE, RISK / 2), abs=0.08)


def test_testing_ends_at_the_first_vector_that_fails() -> None:
    good, bad = np.zeros(300), np.ones(300)
    judge = Judge("learn_then_test", RISK, LEVEL, binary=True)
    assert accepted_vectors(np.stack([good, good, bad, good]), judge) == 2
    assert accepted_vectors(np.stack([good, good]), judge) == 2
    assert accepted_vectors(np.stack([bad]), judge) == 0


def test_risk_control_in_expectation_counts_the_worst_so_far() -> None:
    judge = Judge("conformal_risk_control", 0.3, LEVEL, binary=True)
    first, second = np.arange(10) < 2, np.arange(10) >= 8
    assert judge.accepts(first)
    assert judge.accepts(second)
    assert accepted_vectors(np.stack([first, second]).astype(float), judge) == 1
