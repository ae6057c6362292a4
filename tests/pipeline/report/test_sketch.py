"""Quantiles from a sketch are right to 1 %, whatever the values, and sketches of parts add up to the whole."""

import numpy as np
import pytest

from pipeline.report.sketch import Sketch


def sketch_of(values: np.ndarray) -> Sketch:
    sketch = Sketch()
    sketch.add(values)
    return sketch


@pytest.mark.parametrize("scale", [1e-4, 1.0, 3e4])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.99, 1.0])
def test_quantiles_are_right_to_one_percent(scale: float, share: float) -> None:
    values = np.random.default_rng(0).lognormal(0, 1.5, 5000) * scale
    below, above = np.quantile(values, share, method="lower"), np.quantile(values, share, method="higher")
    assert 0.99 * below <= sketch_of(values).quantile(share) <= 1.01 * above


def test_mean_extremes_and_standard_error_are_exact() -> None:
    values = np.random.default_rng(1).gamma(2, 1, 1000)
    sketch = sketch_of(values)
    assert sketch.mean == pytest.approx(values.mean())
    assert (sketch.low, sketch.high) == (values.min(), values.max())
    assert sketch.standard_error == pytest.approx(values.std(ddof=1) / np.sqrt(1000))


def test_parts_add_up_to_the_whole() -> None:
    values = np.random.default_rng(2).lognormal(size=999)
    parts = sketch_of(values[:300])
    parts.merge(sketch_of(values[300:]))
    whole = sketch_of(values)
    assert (parts.counts == whole.counts).all()
    assert parts.quantile(0.5) == whole.quantile(0.5)


def test_null_is_left_out_and_zero_is_zero() -> None:
    sketch = sketch_of(np.array([0.0, 0.0, np.nan, 5.0]))
    assert sketch.count == 3
    assert sketch.quantile(0.5) == 0.0
    assert sketch.quantile(1.0) == 5.0


def test_nothing_is_unknown() -> None:
    empty = Sketch()
    assert (empty.mean, empty.quantile(0.5), empty.standard_error, empty.histogram()) == (None, None, None, [])


def test_one_value_is_every_quantile() -> None:
    assert {sketch_of(np.array([0.3])).quantile(share) for share in (0, 0.5, 1)} == {0.3}


def test_histogram_holds_the_middle_of_the_values() -> None:
    values = np.random.default_rng(3).lognormal(-2, 1, 10_000)
    bars = sketch_of(values).histogram(20)
    assert len(bars) <= 20
    assert sum(count for *_, count in bars) >= 9_980
    assert all(left < right for left, right, _ in bars)
