"""What a visit costs: seconds = floor + slope * positions, for every segment. Pure Python, no torch.

The floor is what a visit costs whatever its size (weights read, kernels launched, Python); only batching shares it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

FLOOR_SHARE = 0.05  # of a visit's time that may be floor for the visit to count as efficient


@dataclass(frozen=True, slots=True)
class VisitCost:
    """Cost of one segment, its exit included."""

    floor_s: float
    slope_s: float  # per position

    def seconds(self, num_positions: float) -> float:
        return self.floor_s + self.slope_s * num_positions

    def efficient_rows(self, most: int) -> int:
        """Return the rows from which on waiting for company saves next to nothing; `most` where none is known."""
        floors = (1 / FLOOR_SHARE - 1) * self.floor_s
        return most if floors >= most * self.slope_s else max(1, math.ceil(floors / self.slope_s))


def costs_by_layers(exit_layers: Sequence[int]) -> tuple[VisitCost, ...]:
    """Return what to go by where nothing was measured: all floor, one unit a layer and one for the exit."""
    starts = (0, *exit_layers)
    return tuple(VisitCost(end - start + 1.0, 0.0) for start, end in zip(starts, exit_layers, strict=False))


def fit(points: Sequence[tuple[int, float]]) -> VisitCost:
    """Fit by least squares over (positions, seconds), with neither part negative; at least two sizes."""
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    assert spread > 0, "one size says nothing about a slope"
    slope_s = max(0.0, sum((x - mean_x) * (y - mean_y) for x, y in points) / spread)
    floor_s = mean_y - slope_s * mean_x
    if floor_s < 0:  # a line through the origin fits best then
        return VisitCost(0.0, sum(x * y for x, y in points) / sum(x * x for x, _ in points))
    return VisitCost(floor_s, slope_s)
