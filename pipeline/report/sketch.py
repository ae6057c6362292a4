"""Quantiles of any number of values in fixed memory: a histogram over logarithmic bins, right to 1 %."""

import math
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_STEP = 0.01  # width of a bin on the natural logarithm, so 1 %
_LOW, _HIGH = 1e-7, 1e7
_NUM_BINS = math.ceil(math.log(_HIGH / _LOW) / _STEP)


def floats(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return a column's numbers as float64, null as NaN."""
    values = pc.cast(column, pa.float64())
    return np.asarray(values.to_numpy(zero_copy_only=False) if isinstance(values, pa.Array) else values.to_numpy())


@dataclass
class Sketch:
    """Counts, sum and extremes of positive values; zero and less count as zero, NaN (null) is left out."""

    counts: np.ndarray = field(default_factory=lambda: np.zeros(_NUM_BINS + 1, np.int64))  # bin 0 holds the zeros
    total: float = 0.0
    total_squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    @property
    def count(self) -> int:
        return int(self.counts.sum())

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None

    @property
    def standard_error(self) -> float | None:
        """Of the mean; None below two values."""
        n = self.count
        if n < 2:
            return None
        variance = max(0.0, self.total_squares / n - (self.total / n) ** 2) * n / (n - 1)
        return math.sqrt(variance / n)

    def add(self, values: np.ndarray) -> None:
        values = values[np.isfinite(values)].astype(np.float64)
        if not values.size:
            return
        bins = np.zeros(values.size, np.int64)
        positive = values > _LOW
        bins[positive] = np.minimum(np.log(values[positive] / _LOW) / _STEP, _NUM_BINS - 1).astype(np.int64) + 1
        self.counts += np.bincount(bins, minlength=_NUM_BINS + 1)
        self.total += float(values.sum())
        self.total_squares += float((values * values).sum())
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    def merge(self, other: "Sketch") -> None:
        self.counts += other.counts
        self.total += other.total
        self.total_squares += other.total_squares
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    def quantile(self, share: float) -> float | None:
        """Return the value below which `share` of the values lie; None of none."""
        count = self.count
        if not count:
            return None
        if share in (0, 1):
            return max(0.0, self.low if share == 0 else self.high)
        rank = share * (count - 1)
        cumulative = np.cumsum(self.counts)
        index = int(np.searchsorted(cumulative, rank, side="right"))
        if index == 0:
            return max(0.0, self.low)
        inside = (rank - cumulative[index - 1] + 0.5) / self.counts[index]
        value = _LOW * math.exp((index - 1 + min(1.0, inside)) * _STEP)
        return min(max(value, self.low), self.high)

    def histogram(self, num_bars: int = 32) -> list[tuple[float, float, int]]:
        """(from, to, count) of equally wide bars on a logarithmic axis, over the 99.9 % in the middle."""
        first, last = self.quantile(0.0005), self.quantile(0.9995)
        if first is None or last is None or last <= _LOW:
            return []
        start = int(math.log(max(first, _LOW) / _LOW) / _STEP)
        end = max(start + 1, math.ceil(math.log(last / _LOW) / _STEP))
        width = max(1, math.ceil((end - start) / num_bars))
        bars = []
        for left in range(start, end, width):
            counts = int(self.counts[left + 1 : left + width + 1].sum())
            bars.append((_LOW * math.exp(left * _STEP), _LOW * math.exp((left + width) * _STEP), counts))
        return bars
