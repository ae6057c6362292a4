"""One process per variant, kept alive and asked in turn, A B C, A B C, with the order turned round every other time."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from conf.bench import BenchConfig, BenchModel
from conf.errors import UserError
from jobs.bench.engine.cells import Cell
from jobs.bench.engine.passes import Outcome, Pass
from jobs.bench.engine.variants import FULL
from jobs.bench.engine.worker import PROBE, Worker


class Team:
    """The processes of one model; a variant's starts when a cell first needs it."""

    def __init__(self, config: BenchConfig, model: BenchModel, num_threads: int) -> None:
        self._config, self._model, self._num_threads = config, model, num_threads
        self._workers: dict[str, Worker] = {}
        self._refused: dict[str, str] = {}  # variants the model has not

    def worker(self, name: str) -> Worker:
        """Raise UserError where the variant does not apply to the model."""
        if name in self._refused:
            raise UserError(self._refused[name])
        if name not in self._workers:
            try:
                self._workers[name] = Worker(name, self._config, self._model, self._num_threads)
            except UserError as refusal:
                self._refused[name] = str(refusal)
                raise
        return self._workers[name]

    def release_all_but(self, names: Sequence[str]) -> None:
        """Let go of the caches of variants that sit out."""
        for name, worker in self._workers.items():
            if name not in (PROBE, *names):
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
    """Let every variant run the work once, untimed; return what it says, and why some do not apply."""
    outcomes: dict[str, Outcome] = {}
    skipped: dict[str, str] = {}
    workers.release_all_but(cell.variants)
    for name in cell.variants:
        try:
            worker = workers.worker(name)
            worker.ask("prepare", cell)
        except UserError as refusal:
            skipped[name] = str(refusal)
            continue
        outcomes[name] = worker.ask("verify")
    assert FULL in outcomes, f"full depth does not run: {skipped.get(FULL)}"
    return outcomes, skipped


def run_rounds(cell: Cell, names: Sequence[str], workers: Team, settle_s: float) -> list[dict[str, Pass]]:
    """Measure every variant in every round, after a pause of `settle_s` seconds each."""
    rounds = []
    for number in range(cell.rounds):
        order = names if number % 2 == 0 else list(reversed(names))
        each: dict[str, Pass] = {}
        for name in order:
            time.sleep(settle_s)
            each[name] = workers.worker(name).ask("measure")
        rounds.append(each)
    return rounds
