"""Sets of exits with what they save, chosen on some rows and reported on others.

Shape suffixes: N tokens, L layers (a column each, the last is full depth).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actors.training.exits.measure import Measured
from actors.training.exits.search import Exits, best_sets
from actors.training.exits.work import Texts, work_of
from actors.training.thresholds import Recording, column_left_at, thresholds_at_risk
from conf.resolve import NEVER
from pipeline.report.work import caught_up


@dataclass(frozen=True)
class Rows:
    """What every layer of a checkpoint says of some texts."""

    recording: Recording
    texts: Texts

    @property
    def num_layers(self) -> int:
        return self.recording.confidence_NE.shape[1]

    @property
    def num_tokens(self) -> int:
        return len(self.recording.confidence_NE)

    def first(self, count: int) -> "Rows":
        """Return the first texts alone."""
        texts = self.texts.first(count)
        tokens = int(texts.steps_T.sum())
        return Rows(Recording(self.recording.confidence_NE[:tokens], self.recording.agrees_NE[:tokens]), texts)

    def layer_N(self, exits: Exits, thresholds: Sequence[float]) -> np.ndarray:
        """Return the layer that every token leaves at."""
        columns = [layer - 1 for layer in exits]
        return 1 + column_left_at(self.recording.confidence_NE, list(zip(columns, thresholds, strict=True)))

    def share_of_time(self, left_N: np.ndarray, exits: Exits, measured: Measured) -> float:
        """Return the decoder's time where tokens leave like that, as a share of full depth's."""
        deepest_N, last, slots = np.full_like(left_N, self.num_layers), (self.num_layers,), measured.num_slots
        early = work_of(left_N, (*exits, *last), self.texts, slots, built_from=measured.built_from)
        full = work_of(deepest_N, last, self.texts, slots, built_from=measured.built_from)
        return measured.costs.seconds(early) / measured.costs.seconds(full)


@dataclass(frozen=True)
class Plan:
    """A set of exits before full depth, and what it would do; times are shares of full depth's."""

    exits: Exits
    thresholds: tuple[float, ...]
    mean_depth: float
    computed_depth: float  # layers per token, catching up included
    equal_tokens: float  # share that full depth says too, each after full depth's own text
    time_alone: float  # one sequence a visit
    time_together: float  # visits full
    wrong_at: dict[int, float]  # by exit: share of the tokens that leave there that full depth does not say


class Choice:
    """Finds sets of exits: thresholds and the search go by one half of the rows, what is reported by the other."""

    def __init__(
        self, choose_on: Rows, report_on: Rows, *, risk: float, alone: Measured, together: Measured, best_for: str
    ) -> None:
        self.choose_on, self.report_on, self.risk = choose_on, report_on, risk
        self.alone, self.together = alone, together
        self.goal = alone if best_for == "latency" else together

    def thresholds(self, exits: Exits) -> tuple[float, ...]:
        """Return those that keep the risk on the rows to choose by; one above 1 closes its exit."""
        columns = tuple(layer - 1 for layer in (*exits, self.choose_on.num_layers))
        return thresholds_at_risk(self.choose_on.recording, self.risk, columns)

    def best(self, candidates: Sequence[int], count: int) -> list[Plan]:
        """Return the best sets of the candidates, the best first; the empty one is full depth alone."""
        return [self.plan(exits) for exits in best_sets(candidates, self._time, count)]

    def _time(self, exits: Exits) -> float:
        """Return the share of full depth's time; infinite where an exit is closed: the set without it is the same."""
        thresholds = self.thresholds(exits)
        if any(threshold > NEVER for threshold in thresholds):
            return float("inf")
        return self.choose_on.share_of_time(self.choose_on.layer_N(exits, thresholds), exits, self.goal)

    def plan(self, exits: Exits, thresholds: tuple[float, ...] | None = None) -> Plan:
        """Return what a set does on the rows to report on, with its own thresholds where none are given."""
        thresholds = self.thresholds(exits) if thresholds is None else thresholds
        rows = self.report_on
        left_N = rows.layer_N(exits, thresholds)
        equal_N = rows.recording.agrees_NE[np.arange(len(left_N)), left_N - 1]
        return Plan(
            exits=exits,
            thresholds=thresholds,
            mean_depth=float(left_N.mean()),
            computed_depth=float(caught_up(left_N, rows.texts.steps_T).mean()),
            equal_tokens=float(equal_N.mean()),
            time_alone=rows.share_of_time(left_N, exits, self.alone),
            time_together=rows.share_of_time(left_N, exits, self.together),
            wrong_at={e: float(1 - equal_N[left_N == e].mean()) if (left_N == e).any() else 0.0 for e in exits},
        )

    def best_to_use(self, exits: Sequence[int], untrained: Sequence[int]) -> Plan:
        """Return the best set of exits that a checkpoint has.

        An untrained one is among them only where it keeps the risk on the rows to report on too.
        """
        candidates = list(exits)
        while True:
            plan = self.best(candidates, 1)[0]
            guessing = [e for e in plan.exits if e in untrained and plan.wrong_at[e] > self.risk]
            if not guessing:
                return plan
            candidates = [e for e in candidates if e not in guessing]
