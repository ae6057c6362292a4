"""Which queue runs next. Pure Python, no torch, no clock: the same queues give the same answer.

The positions that segments compute are the same whatever the order, so that only floors can be saved: every visit
costs its segment's floor once, however many rows it takes.

1. A deep queue whose oldest row has waited long enough runs.
2. Otherwise a full queue runs, the deepest of them first: nothing is gained by waiting. A queue is full at the most
   rows a visit takes, or where floors hardly count any more (`VisitCost.efficient_rows`). With as many times those
   rows in flight as there are segments some queue is always full, by the pigeonhole principle, and shallow passes
   never starve.
3. Otherwise newcomers are encoded, if there are slots for a batch of them.
4. Otherwise, with few slots or work running out, the queue runs that is longest for its segment. To share n rows
   among queues so that the floors per token, sum(demand_j * floor_j / rows_j), are least, rows_j must go with
   sqrt(demand_j * floor_j), demand being the share of tokens that reach the segment; hence the largest
   rows_j / sqrt(demand_j * floor_j). Of equals the deepest, which frees slots soonest.
"""

import math
from collections.abc import Sequence

from actors.engine.costs import VisitCost


class QueuePolicy:
    """Counts what reaches each segment; everything else is in its arguments."""

    def __init__(self, costs: Sequence[VisitCost], max_rows: int, max_wait_steps: int) -> None:
        self.max_rows, self.max_wait_steps = max_rows, max_wait_steps
        self._rows = [0] * len(costs)  # that entered each queue
        self.set_costs(costs)

    def set_costs(self, costs: Sequence[VisitCost]) -> None:
        self.costs = tuple(costs)
        self.full_rows = [cost.efficient_rows(self.max_rows) for cost in costs]

    def entered(self, segment: int) -> None:
        self._rows[segment] += 1

    def pressing(self, lengths: Sequence[int], waits: Sequence[int]) -> int | None:
        """Return the segment to visit before anything is admitted; `waits` are steps of the oldest of each queue."""
        for segment in range(len(lengths) - 1, 0, -1):
            if lengths[segment] and waits[segment] > self.max_wait_steps:
                return segment
        for segment in range(len(lengths) - 1, -1, -1):
            if lengths[segment] >= self.full_rows[segment]:
                return segment
        return None

    def longest(self, lengths: Sequence[int]) -> int:
        """Return the segment whose queue is longest for it; some queue must have rows."""
        occupied = [segment for segment, length in enumerate(lengths) if length]
        return max(occupied, key=lambda segment: (lengths[segment] / self._fair_length(segment), segment))

    def _fair_length(self, segment: int) -> float:
        demand = (self._rows[segment] + 1) / (self._rows[0] + 1)
        return math.sqrt(demand * max(self.costs[segment].floor_s, 1e-9))
