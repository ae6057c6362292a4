"""Bounds of a mean loss: known numbers, what they are equivalent to, and what no sample may break."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from actors.training.guarantee.bounds import Judge, exact_binomial, hoeffding_bentkus, interval, p_hoeffding_bentkus
from conf.errors import UserError
from conf.evaluation import PromiseConfig
from conf.guarantee import Method

METHODS: tuple[Method, ...] = ("learn_then_test", "betting", "conformal_risk_control")
JUDGES = st.builds(
    Judge, st.sampled_from(METHODS), st.floats(0.005, 0.5), st.floats(0.5, 0.99), st.just(False)
)  # fmt: skip
LOSSES = st.lists(st.floats(0, 1), min_size=1, max_size=200).map(np.array)


def exact(risk: float, level: float = 0.95) -> Judge:
    return Judge("learn_then_test", risk, level, binary=True)


def test_the_numbers_that_the_docs_have() -> None:
    assert exact(0.01).images_needed() == 299
    assert exact(0.02).images_needed() == 149
    assert [exact(0.01).allowed(images) for images in (298, 299, 1000, 2000, 5000)] == [None, 0, 4, 12, 38]
    assert exact(0.02).allowed(2000) == 29
    assert exact(0.01).chance(2000, 0.005) == pytest.approx(0.792, abs=1e-3)
    assert Judge("conformal_risk_control", 0.01, 0.95, binary=True).images_needed() == 99


@given(st.integers(1, 400), st.floats(0.002, 0.9), st.floats(0.5, 0.999), st.data())
def test_a_share_is_kept_where_the_binomial_p_value_is_small(
    images: int, risk: float, level: float, data: st.DataObject
) -> None:
    failures = data.draw(st.integers(0, images))
    p_value = float(binom.cdf(failures, images, risk))
    if abs(p_value - (1 - level)) > 1e-9:
        assert exact(risk, level).accepts(np.arange(images) < failures) is (p_value < 1 - level)


@given(st.integers(1, 300), st.data())
def test_intervals_of_shares_are_those_of_clopper_and_pearson(images: int, data: st.DataObject) -> None:
    failures = data.draw(st.integers(0, images))
    theirs = binomtest(failures, images).proportion_ci(0.9, method="exact")
    ours = interval((np.arange(images) < failures).astype(float), 0.9, binary=True)
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@given(JUDGES, LOSSES)
def test_a_bound_is_above_the_mean_and_decides(judge: Judge, loss_I: np.ndarray) -> None:
    bound = judge.upper_bound(loss_I)
    assert loss_I.mean() <= bound + 1e-9 <= 1 + 2e-9
    if abs(bound - judge.risk) > 1e-6:
        assert judge.accepts(loss_I) is (bound < judge.risk)


@given(JUDGES, LOSSES, st.data())
def test_more_loss_is_never_a_smaller_bound(judge: Judge, loss_I: np.ndarray, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(loss_I) - 1))
    worse_I = loss_I.copy()
    worse_I[place] = data.draw(st.floats(float(loss_I[place]), 1))
    assert judge.upper_bound(worse_I) >= judge.upper_bound(loss_I) - 1e-9


@given(JUDGES, LOSSES)
def test_the_order_of_images_does_not_matter(judge: Judge, loss_I: np.ndarray) -> None:
    assert judge.upper_bound(loss_I[::-1]) == pytest.approx(judge.upper_bound(loss_I), abs=1e-9)


@given(JUDGES)
def test_fewer_images_than_are_needed_can_show_nothing(judge: Judge) -> None:
    needed = judge.images_needed()
    assert judge.allowed(needed) is not None
    judge.check(needed)
    if needed > 1:
        assert judge.allowed(needed - 1) is None
        with pytest.raises(UserError, match=f"{needed:,} are needed at least"):
            judge.check(needed - 1)


@given(st.integers(1, 500), st.floats(0, 1), st.floats(0.001, 0.999))
def test_a_p_value_of_losses_in_between(images: int, mean: float, risk: float) -> None:
    p_value = p_hoeffding_bentkus(mean, images, risk)
    assert 0 <= p_value <= 1
    assert p_value >= p_hoeffding_bentkus(mean, images, min(0.999, risk * 1.1)) - 1e-12
    if mean <= risk:
        assert p_value <= np.exp(-2 * images * (risk - mean) ** 2) + 1e-12  # Hoeffding's simpler tail
    else:
        assert p_value > 0.5


def test_what_is_made_for_shares_is_the_sharpest_for_them_and_bets_for_small_losses() -> None:
    differs_I = (np.arange(2000) < 10).astype(float)
    assert exact_binomial(differs_I, 0.95) < hoeffding_bentkus(differs_I, 0.95)
    small_I = 0.3 * (np.arange(2000) < 40)
    assert Judge("betting", 0.02, 0.95, binary=False).upper_bound(small_I) < hoeffding_bentkus(small_I, 0.95)


def test_a_promise_of_shares_is_judged_exactly() -> None:
    assert Judge.of(PromiseConfig(risk=0.01)) == Judge("learn_then_test", 0.01, 0.95, binary=True)
    assert not Judge.of(PromiseConfig(risk=0.01, loss="dissimilarity")).binary
