"""Measure what visits cost on this machine, with this model and these caches, before any request is in flight."""

from collections.abc import Callable

import numpy as np
import torch

from actors.engine.batch import Batch
from actors.engine.costs import VisitCost, costs_by_layers, fit
from actors.engine.exit_gate import ExitGate
from actors.engine.request import ActiveSequence, Request
from actors.engine.runner import Runner

REPEATS = 2  # the quicker one counts: what disturbs a measurement only ever adds to it


def measure_visit_costs(
    runner: Runner, judge: ExitGate, max_rows: int, *, limit_s: float, clock: Callable[[], float]
) -> tuple[VisitCost, ...]:
    """Time every segment with its exit at a few batch sizes; costs by layers where `limit_s` did not suffice for two.

    Slots 0 to max_rows - 1 must be free. Caches are as new afterwards.
    """
    start_s = clock()
    exit_layers = runner.exit_layers
    points: list[list[tuple[int, float]]] = [[] for _ in exit_layers]
    sizes = sorted({1, max(1, max_rows // 4), max_rows})
    with runner.cache.lent(max_rows), runner.cross.not_learning():
        for size in (sizes[0], sizes[-1], *sizes[1:-1]):
            rows = _sequences(size, len(exit_layers), runner.max_positions // 2, runner.cache.num_context)
            for segment in range(len(exit_layers)):
                if clock() - start_s > limit_s:
                    break
                batch = Batch(segment, rows)
                _visit(runner, judge, batch)  # the first of a size allocates and chooses kernels
                points[segment].append((size, min(_timed(runner, judge, batch, clock) for _ in range(REPEATS))))
    if any(len({size for size, _ in found}) < 2 for found in points):
        return costs_by_layers(exit_layers)
    return tuple(fit(found) for found in points)


def _sequences(count: int, num_segments: int, position: int, num_context: int) -> tuple[ActiveSequence, ...]:
    """Return sequences halfway through their outputs, with nothing pending but the current token."""
    nothing = Request(-1, np.zeros((0, 0, 3), np.uint8), ())
    return tuple(
        ActiveSequence(
            nothing, slot, [position] * num_segments, position + 1,
            position=position, num_context=num_context, cross_built=(1 << num_segments) - 1,
        )
        for slot in range(count)
    )  # fmt: skip


def _visit(runner: Runner, judge: ExitGate, batch: Batch) -> None:
    verdict = judge.judge(batch, runner.run(batch))
    judge.emit(batch, verdict, [True] * len(batch.sequences))
    if runner.device.type == "cuda":
        torch.cuda.synchronize(runner.device)


def _timed(runner: Runner, judge: ExitGate, batch: Batch, clock: Callable[[], float]) -> float:
    start_s = clock()
    _visit(runner, judge, batch)
    return clock() - start_s
