"""Thresholds keep the stated risk on the data they were chosen on, and more risk is never deeper."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.training.thresholds import Recording, thresholds_at_risk


def _recording(seed: int, num_tokens: int = 2000, num_exits: int = 4) -> Recording:
    rng = np.random.default_rng(seed)
    confidence = np.sort(rng.beta(4, 1, size=(num_tokens, num_exits)), axis=1)
    agrees = rng.random((num_tokens, num_exits)) < confidence  # calibrated by construction
    agrees[:, -1] = True
    return Recording(confidence, agrees)


@given(st.integers(0, 50), st.floats(0.0, 0.3))
def test_tokens_that_leave_disagree_at_most_at_the_risk(seed: int, risk: float) -> None:
    recording = _recording(seed)
    thresholds = thresholds_at_risk(recording, risk)
    open_ = np.ones(len(recording.confidence_NE), dtype=bool)
    for column, threshold in enumerate(thresholds):
        leaves = open_ & (recording.confidence_NE[:, column] >= threshold)
        if leaves.any():
            assert (~recording.agrees_NE[leaves, column]).mean() <= risk + 1e-9
        open_ &= ~leaves


def test_more_risk_is_shallower() -> None:
    recording = _recording(1)
    depths = []
    for risk in (0, 0.02, 0.1, 0.5):
        leaves_NE = recording.confidence_NE >= (*thresholds_at_risk(recording, risk), 0.0)
        depths.append(leaves_NE.argmax(axis=1).mean())  # index of the first exit that is sure enough
    assert depths == sorted(depths, reverse=True)
    assert depths[-1] == pytest.approx(0.0, abs=0.02)


def test_a_hopeless_exit_is_closed() -> None:
    confidence = np.array([[0.9, 1.0], [0.8, 1.0]])
    agrees = np.array([[False, True], [False, True]])
    assert thresholds_at_risk(Recording(confidence, agrees), 0.1) == (1.01,)


def test_threshold_is_the_lowest_confidence_that_keeps_the_risk() -> None:
    confidence = np.array([[0.9, 1.0], [0.8, 1.0], [0.7, 1.0], [0.6, 1.0]])
    agrees = np.array([[True, True], [True, True], [False, True], [False, True]])
    recording = Recording(confidence, agrees)
    assert thresholds_at_risk(recording, 0.0) == pytest.approx((0.8,))
    assert thresholds_at_risk(recording, 0.34) == pytest.approx((0.7,))
