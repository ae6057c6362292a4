"""What early exit saves: now and then a visit to the first segment is run through all layers too, for its time alone.

Every step runs the first segment once, so all of those visits, times what all layers took for some of them, are what
full depth would have taken: with the run's own rows, positions and batch sizes, whatever else the machine was doing.
No torch here.
"""

from statistics import median

SHARE = 0.01  # of the time worked that probes may take, but for the first one
FIRST_VISIT = 16  # by then what is allocated or chosen once has been


class DepthProbe:
    """When to probe, and what was found. `limit_s`: most seconds spent in all."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._num_visits = 0  # to the first segment
        self._worked_s = self._spent_s = self._last_s = 0.0
        self._ratios: list[float] = []

    def due(self) -> bool:
        """Return whether to probe the next visit to the first segment."""
        if not self._ratios:
            return self._num_visits + 1 >= FIRST_VISIT
        after_s = self._spent_s + self._last_s
        return after_s <= self._limit_s and after_s <= SHARE * self._worked_s

    def worked(self, seconds: float) -> None:
        self._worked_s += seconds

    def visited(self, visit_s: float, model_s: float, probe_s: float) -> None:
        """Take a visit to the first segment in: its seconds, those of them in the model, and of its probe, if any.

        The rest of a visit, choosing rows and moving them on, is what full depth needs too.
        """
        self._num_visits += 1
        if probe_s > 0 and visit_s > 0:
            self._ratios.append((visit_s - model_s + probe_s) / visit_s)
            self._spent_s, self._last_s = self._spent_s + probe_s, probe_s

    @property
    def ratio(self) -> float | None:
        """Return how many times a visit to the first segment full depth takes; None before the first probe.

        The median: what disturbs one of a pair makes it as large or small as you like.
        """
        return median(self._ratios) if self._ratios else None
