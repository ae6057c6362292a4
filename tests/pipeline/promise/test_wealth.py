"""The bet against a promise: never more than fair where it is kept, quick where it is not, whatever the order."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.promise.wealth import Wealth, images_to_see, stakes

DELTA = 0.05
LOSS = st.floats(0, 1)
RISK = st.floats(0.001, 0.9)


def wealth_of(risk: float, losses: list[float]) -> Wealth:
    wealth = Wealth(risk, DELTA)
    wealth.take(losses)
    return wealth


@given(RISK, st.lists(LOSS, max_size=40), st.randoms())
def test_it_is_never_lost_and_no_order_changes_it(risk: float, losses: list[float], random) -> None:
    wealth = wealth_of(risk, losses)
    assert math.isfinite(wealth.log)
    assert wealth.value > 0
    random.shuffle(losses)
    assert wealth_of(risk, losses).log == pytest.approx(wealth.log, abs=1e-9)


@given(RISK, st.data())
def test_a_kept_promise_makes_no_bet_better_than_fair(risk: float, data: st.DataObject) -> None:
    """Over all sequences of three losses, each low or high with a mean of at most the risk: exactly, no simulation."""
    low = data.draw(st.floats(0, risk))
    high = data.draw(st.floats(risk, 1))
    most = 1.0 if high == low else (risk - low) / (high - low)
    share = data.draw(st.floats(0, 1)) * most
    expected = 0.0
    for picks in itertools.product((False, True), repeat=3):
        probability = math.prod(share if pick else 1 - share for pick in picks)
        expected += probability * wealth_of(risk, [high if pick else low for pick in picks]).value
    assert expected <= 1 + 1e-9


@given(RISK)
def test_the_first_wealth_is_one_and_no_stake_can_lose_more_than_half(risk: float) -> None:
    assert Wealth(risk, DELTA).value == pytest.approx(1)
    bets, _ = stakes(risk)
    assert (bets > 0).all()
    assert (1 - bets * risk >= 0.5 - 1e-9).all()


def test_the_alarm_stands_whatever_comes_later() -> None:
    wealth = wealth_of(0.01, [0.0] * 10 + [1.0] * 5)
    assert wealth.alarm_at is not None
    assert 10 < wealth.alarm_at <= 15
    first = wealth.alarm_at
    wealth.take([0.0] * 5000)
    assert wealth.value < 1 / DELTA
    assert wealth.alarm_at == first


@pytest.mark.parametrize(("risk", "images"), [(0.01, 765), (0.02, 378), (0.05, 145)])
def test_images_needed_to_see_a_rate_twice_as_bad(risk: float, images: int) -> None:
    assert images_to_see(risk, 2 * risk, DELTA) == images
    assert images_to_see(risk, risk, DELTA) is None
    assert images_to_see(0.6, 1.2, DELTA) is None


def alarms(risk: float, rate: float, images: int, runs: int, seed: int) -> np.ndarray:
    """Return after how many images each of some runs raises the alarm; `images + 1` where it does not."""
    rng = np.random.default_rng(seed)
    bets, logs = stakes(risk)
    losses = (rng.random((runs, images)) < rate)[..., None]
    bettors = logs + np.cumsum(np.log1p(bets * (losses - risk)), axis=1)
    raised = np.exp(bettors).sum(-1) >= 1 / DELTA
    return np.where(raised.any(1), raised.argmax(1) + 1, images + 1)


def test_the_simulation_bets_as_the_audit_does() -> None:
    (at,) = alarms(0.05, 0.15, 300, 1, seed=3)
    losses = (np.random.default_rng(3).random((1, 300)) < 0.15)[0].astype(float).tolist()
    assert wealth_of(0.05, losses).alarm_at == at


@pytest.mark.parametrize("risk", [0.01, 0.02, 0.05])
def test_a_promise_that_is_just_kept_raises_the_alarm_in_at_most_delta_of_the_runs(risk: float) -> None:
    images = 4000  # looked at after each of them
    at = alarms(risk, risk, images, 200, seed=1)
    assert (at <= images).sum() <= DELTA * 200


@pytest.mark.parametrize("risk", [0.01, 0.02, 0.05])
def test_a_shifted_corpus_is_seen_within_the_images_that_a_doubled_rate_needs(risk: float) -> None:
    images = images_to_see(risk, 2 * risk, DELTA)
    assert images is not None
    for times in (4, 10):
        assert (alarms(risk, times * risk, images, 20, seed=times) <= images).sum() >= 19


@pytest.mark.parametrize("risk", [0.01, 0.02, 0.05])
def test_a_doubled_rate_is_seen_about_when_it_is_said_to_be(risk: float) -> None:
    images = images_to_see(risk, 2 * risk, DELTA)
    assert images is not None
    at = alarms(risk, 2 * risk, 4 * images, 200, seed=2)
    assert np.median(at) <= images
    assert at.mean() <= 1.3 * images
    assert (at <= 4 * images).mean() >= 0.95
