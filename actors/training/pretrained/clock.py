"""How fast a trainer is, and how much of its time it waits for data."""

import time

from actors.training.rows.loader import Loader


class Clock:
    """Measures laps of some steps each; what is not training is left out by `restart`."""

    def __init__(self, loader: Loader, step: int) -> None:
        self._loader = loader
        self._total_s = 0.0
        self.restart(step)

    def restart(self, step: int) -> None:
        """Begin a lap now; what came since the last one does not count."""
        self._start_s, self._waited_s, self._step = time.perf_counter(), self._loader.waiting_s, step

    def lap(self, step: int) -> tuple[float, float, int]:
        """Return (seconds, seconds of them waiting for data, steps) since the last lap, and begin another."""
        elapsed_s = max(time.perf_counter() - self._start_s, 1e-9)
        waited_s, steps = self._loader.waiting_s - self._waited_s, max(1, step - self._step)
        self._total_s += elapsed_s
        self.restart(step)
        return elapsed_s, waited_s, steps

    def take_s(self) -> float:
        """Return the seconds of all laps since this was asked last."""
        taken, self._total_s = self._total_s, 0.0
        return taken
