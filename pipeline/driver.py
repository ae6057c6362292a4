"""The loop at the end of the dataflow: counts what was committed, publishes shards, stops a run going wrong."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from conf.schema import JobConfig
from pipeline.ledger import Ledger, remove_temporaries
from pipeline.plan import Shard
from pipeline.run_record import RunRecord, TooManyErrors
from pipeline.sink import STAGING, Publication, publish_shard
from pipeline.stages import shard_task
from pipeline.storage import Storage

_PUBLISH_TASKS = 8
_MIN_ROWS_TO_JUDGE = 1000
_MAX_IDLE_PASSES = 3
_REPORT_S = 0.2

RunPass = Callable[[list[dict[str, Any]]], Iterator[dict[str, Any]]]  # shard tasks -> tables.SUMMARY rows


class IncompleteRun(Exception):
    """Passes over the unfinished shards bring nothing new."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the run is. `fraction` covers the whole output, the rest this invocation."""

    num_rows: int
    num_errors: int
    mean_depth: float | None
    rows_per_s: float
    fraction: float
    eta_s: float | None
    num_shards_published: int
    num_shards: int


@dataclass
class Driver:
    """One run's bookkeeping; `finish` returns when every shard is published."""

    config: JobConfig
    storage: Storage
    ledger: Ledger
    shards: Sequence[Shard]
    record: RunRecord
    on_progress: Callable[[Progress], None]
    check_lease: Callable[[], None]
    num_rows: int = 0
    num_errors: int = 0
    num_layers_run: int = 0
    num_steps: int = 0
    error_types: Counter[str] = field(default_factory=Counter)
    start_s: float = 0.0
    start_fraction: float = 0.0
    reported_s: float = 0.0
    publishing: dict[Any, str] = field(default_factory=dict)  # Ray reference -> shard

    def finish(self, run_pass: RunPass) -> None:
        """Passes over the unfinished shards until there are none."""
        self.start_s, self.start_fraction = time.monotonic(), self._fraction()
        self._publish_complete(wait=True)  # what a killed run had staged
        idle_passes = 0
        while not self.ledger.finished:
            before = self._fraction()
            for summary in run_pass(self._tasks()):
                self._count(summary)
                self._publish_complete(wait=False)
                self._report()
                self._stop_if_going_wrong()
            self._publish_complete(wait=True)
            idle_passes = idle_passes + 1 if self._fraction() <= before else 0
            if idle_passes >= _MAX_IDLE_PASSES:
                raise IncompleteRun(f"{idle_passes} passes over shards {sorted(self.ledger.open)[:5]} brought nothing")
        self.storage.remove_folder(STAGING)  # chunks that a retried task committed once more after publication
        remove_temporaries(self.storage)
        self.on_progress(self._progress())

    def _report(self) -> None:
        """A few times a second: progress, a sign of life, and whether the output is still ours."""
        if time.monotonic() - self.reported_s >= _REPORT_S:
            self.reported_s = time.monotonic()
            self.on_progress(self._progress())
            self.record.touch()
            self.check_lease()

    def _tasks(self) -> list[dict[str, Any]]:
        books = self.ledger.open
        return [shard_task(shard, sorted(books[shard.name].staged)) for shard in self.shards if shard.name in books]

    def _count(self, summary: dict[str, Any]) -> None:
        self.ledger.record_staged(summary["shard"], summary["chunk"], summary["num_chunks"])
        self.num_rows += summary["num_rows"]
        self.num_errors += summary["num_errors"]
        self.num_layers_run += summary["num_layers_run"]
        self.num_steps += summary["num_steps"]
        self.error_types.update(json.loads(summary["error_types"]))

    def _publish_complete(self, *, wait: bool) -> None:
        """Start publishing shards that look complete; take in what has been published. `wait`: until all are."""
        import ray

        task: Any = ray.remote(num_cpus=0, max_retries=3)(publish_shard)
        while True:
            busy = set(self.publishing.values())
            for name in self.ledger.complete_shards():
                if name not in busy and len(self.publishing) < _PUBLISH_TASKS:
                    self.publishing[task.remote(self.storage, name, self.config.source.passthrough)] = name
            if not self.publishing:
                return
            ready, _ = ray.wait(list(self.publishing), timeout=None if wait else 0)
            for reference in ready:
                del self.publishing[reference]
                self._take_in(ray.get(reference))
            if not wait and not ready:
                return

    def _take_in(self, publication: Publication) -> None:
        if publication.counts is None:
            self.ledger.record_redo(publication.shard, publication.redo)
        else:
            self.ledger.record_published(publication.shard)
            self.record.add_published(publication.shard, publication.counts)

    def _stop_if_going_wrong(self) -> None:
        limit = self.config.output.max_error_fraction
        if self.num_rows >= _MIN_ROWS_TO_JUDGE and self.num_errors > limit * self.num_rows:
            frequent = ", ".join(f"{count} x {error}" for error, count in self.error_types.most_common(5))
            raise TooManyErrors(
                f"{self.num_errors} of {self.num_rows} rows failed, more than output.max_error_fraction={limit:g}: "
                f"{frequent}"
            )

    def _fraction(self) -> float:
        """Share of the source, by bytes, that is staged or published."""
        total = sum(max(1, shard.size_bytes) for shard in self.shards)
        done = 0.0
        for shard in self.shards:
            book = self.ledger.open.get(shard.name)
            part = 1.0 if book is None else len(book.staged) / book.num_chunks if book.num_chunks else 0.0
            done += max(1, shard.size_bytes) * part
        return done / total if total else 1.0

    def _progress(self) -> Progress:
        elapsed_s, fraction = time.monotonic() - self.start_s, self._fraction()
        gained = fraction - self.start_fraction
        return Progress(
            num_rows=self.num_rows,
            num_errors=self.num_errors,
            mean_depth=self.num_layers_run / self.num_steps if self.num_steps else None,
            rows_per_s=self.num_rows / elapsed_s if elapsed_s > 0 else 0.0,
            fraction=fraction,
            eta_s=elapsed_s * (1 - fraction) / gained if gained > 0 else None,
            num_shards_published=len(self.ledger.published),
            num_shards=len(self.shards),
        )
