"""Runs the cells: one process per variant, kept alive and asked in turn, A B C, A B C, with the order turned round
every other time."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

from conf.bench import BenchConfig, BenchModel, Distribution
from conf.errors import UserError
from jobs.bench.engine.bound import Costs
from jobs.bench.engine.cells import Cell
from jobs.bench.engine.passes import Outcome, Pass
from jobs.bench.engine.summary import Measured
from jobs.bench.engine.variants import FULL
from jobs.bench.engine.worker import Worker


class Team:
    """The processes of one model; a variant's starts when a cell first needs it."""

    def __init__(self, config: BenchConfig, model: BenchModel, num_threads: int) -> None:
        self._config, self._model, self._num_threads = config, model, num_threads
        self._workers: dict[str, Worker] = {}
        self._refused: dict[str, str] = {}  # variants the model has not

    def worker(self, name: str) -> Worker:
        """UserError where the variant does not apply to the model."""
        if name in self._refused:
            raise UserError(self._refused[name])
        if name not in self._workers:
            worker = Worker(name, self._config, self._model, self._num_threads)
            try:
                worker.start()
            except UserError as refusal:
                worker.close()
                self._refused[name] = str(refusal)
                raise
            self._workers[name] = worker
        return self._workers[name]

    def release_all_but(self, names: Sequence[str]) -> None:
        """Let go of the caches of variants that sit out."""
        for name, worker in self._workers.items():
            if name not in names:
                worker.ask("release")

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()
        self._workers = {}


@contextmanager
def team(config: BenchConfig, model: BenchModel, num_threads: int) -> Iterator[Team]:
    workers = Team(config, model, num_threads)
    try:
        yield workers
    finally:
        workers.close()


def prepare(cell: Cell, workers: Team) -> tuple[dict[str, Outcome], dict[str, str]]:
    """Every variant runs the work once, untimed: what it says, and why some do not apply."""
    outcomes: dict[str, Outcome] = {}
    skipped: dict[str, str] = {}
    workers.release_all_but(cell.variants)
    for name in cell.variants:
        try:
            worker = workers.worker(name)
            worker.ask("prepare", cell=asdict(cell))
        except UserError as refusal:
            skipped[name] = str(refusal)
            continue
        said = worker.ask("verify")
        outcomes[name] = Outcome(**{**said, "exit_layers": tuple(said["exit_layers"])})
    assert FULL in outcomes, f"full depth does not run: {skipped.get(FULL)}"
    return outcomes, skipped


def run_rounds(cell: Cell, names: Sequence[str], workers: Team, settle_s: float) -> list[dict[str, Pass]]:
    rounds = []
    for number in range(cell.rounds):
        order = names if number % 2 == 0 else list(reversed(names))
        each: dict[str, Pass] = {}
        for name in order:
            time.sleep(settle_s)
            values = workers.worker(name).ask("measure")
            each[name] = Pass(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
        rounds.append(each)
    return rounds


def measured(
    config: BenchConfig, cell: Cell, workers: Team, prepared: tuple[dict[str, Outcome], dict[str, str]],
    costs: Costs, num_layers: int,
) -> Measured:  # fmt: skip
    outcomes, skipped = prepared
    names = [name for name in cell.variants if name in outcomes]
    return Measured(
        cell=cell,
        outcomes=outcomes,
        rounds=run_rounds(cell, names, workers, config.settle_s),
        skipped=skipped,
        costs=costs,
        num_layers=num_layers,
        engine=config.engine,
        scripted=cell.distribution is not Distribution.OWN,
    )
