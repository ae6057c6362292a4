"""Measure what visits cost on this machine, with this model and these caches, before any request is in flight."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np
import torch

from actors.engine.batch import Batch
from actors.engine.costs import DepthCosts, MeasuredCosts, VisitCost, costs_by_layers, fit
from actors.engine.exit_gate import ExitGate
from actors.engine.request import ActiveSequence, Request
from actors.engine.runner import Runner

REPEATS = 2  # the quicker one counts: what disturbs a measurement only ever adds to it
_Kind: TypeAlias = "tuple[int | None, range]"  # a segment, or None for all layers as one; the slots of its rows


def measure_visit_costs(
    runner: Runner, judge: ExitGate, max_rows: int, *, num_slots: int, limit_s: float, clock: Callable[[], float]
) -> MeasuredCosts:
    """Time every segment with its exit, and then full depth, at a few batch sizes.

    Costs are by layers, or unknown, where `limit_s` did not suffice for two sizes. All `num_slots` slots must be free.
    Caches are as new afterwards.
    """
    timing = _Timing(runner, judge, max_rows, clock, clock() + limit_s)
    side_by_side, apart = range(max_rows), range(0, num_slots // max_rows * max_rows, num_slots // max_rows)
    with runner.cache.lent(side_by_side), runner.cache.lent(apart), runner.cross.not_learning():
        segments = timing.costs([(segment, side_by_side) for segment in range(len(runner.exit_layers))])
        if segments is None:
            return MeasuredCosts(costs_by_layers(runner.exit_layers))
        depth = timing.costs([(0, apart), (None, side_by_side)])
    if depth is None or not depth[0].seconds(1) > 0:
        return MeasuredCosts(segments)
    return MeasuredCosts(segments, DepthCosts(*depth))


class _Timing:
    """Visits that are timed until a moment of the clock."""

    def __init__(
        self, runner: Runner, judge: ExitGate, max_rows: int, clock: Callable[[], float], end_s: float
    ) -> None:
        self._runner, self._judge, self._clock, self._end_s = runner, judge, clock, end_s
        self._sizes = sorted({1, max(1, max_rows // 4), max_rows})

    def costs(self, kinds: Sequence[_Kind]) -> tuple[VisitCost, ...] | None:
        """Return the cost of each kind of visit; None if there was no time for two sizes."""
        points: list[list[tuple[int, float]]] = [[] for _ in kinds]
        for size in (self._sizes[0], self._sizes[-1], *self._sizes[1:-1]):
            for (segment, slots), found in zip(kinds, points, strict=True):
                if self._clock() > self._end_s:
                    break
                rows = self._sequences(slots[:size])
                self._visit(segment, rows)  # the first of a size allocates and chooses kernels
                found.append((size, min(self._timed(segment, rows) for _ in range(REPEATS))))
        if any(len({size for size, _ in found}) < 2 for found in points):
            return None
        return tuple(fit(found) for found in points)

    def _sequences(self, slots: Iterable[int]) -> tuple[ActiveSequence, ...]:
        """Return sequences halfway through their outputs, with nothing pending but the current token."""
        nothing = Request(-1, np.zeros((0, 0, 3), np.uint8), ())
        position, num_segments = self._runner.max_positions // 2, len(self._runner.exit_layers)
        return tuple(
            ActiveSequence(
                nothing, slot, [position] * num_segments, position + 1,
                position=position, num_context=self._runner.cache.num_context, cross_built=(1 << num_segments) - 1,
            )
            for slot in slots
        )  # fmt: skip

    def _visit(self, segment: int | None, rows: tuple[ActiveSequence, ...]) -> None:
        batch = Batch(len(self._runner.exit_layers) - 1 if segment is None else segment, rows)
        states = self._runner.run(Batch(0, rows), all_layers=True) if segment is None else self._runner.run(batch)
        verdict = self._judge.judge(batch, states)
        self._judge.emit(batch, verdict, [True] * len(rows))
        if self._runner.device.type == "cuda":
            torch.cuda.synchronize(self._runner.device)

    def _timed(self, segment: int | None, rows: tuple[ActiveSequence, ...]) -> float:
        start_s = self._clock()
        self._visit(segment, rows)
        return self._clock() - start_s
