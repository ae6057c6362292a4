"""The loop at the end of the dataflow: counts what was committed, publishes shards, stops a run going wrong."""

import itertools
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from conf.errors import Explained, PromiseBroken
from conf.schema import JobConfig
from pipeline.output import second_chance
from pipeline.output.ledger import Ledger, remove_temporaries
from pipeline.output.publish import Counts, Publication
from pipeline.output.run_record import TooManyErrors
from pipeline.output.staging import STAGING
from pipeline.output.storage import Storage
from pipeline.promise.watch import AuditState, Watch
from pipeline.report.work import computed_depth, work_of
from pipeline.source.plan import Shard
from pipeline.stages import shard_task

_LOG = logging.getLogger(__name__)
_MIN_ROWS_TO_JUDGE = 1000
_MIN_SHARDS_TO_JUDGE = 10
_MAX_IDLE_PASSES = 3
# Ray Data keeps statistics of every block until its dataset ends; the price of a new one is that engines start again.
MOST_SHARDS_A_PASS = 10_000
_REPORT_S = 0.2

RunPass = Callable[[list[dict[str, Any]]], Iterator[dict[str, Any]]]  # shard tasks -> tables.SUMMARY rows


class Publisher(Protocol):
    """Publishes shards in the background (pipeline.output.publish_tasks)."""

    @property
    def busy(self) -> set[str]:
        """Shards being published now."""

    @property
    def full(self) -> bool: ...

    def start(self, shard_name: str) -> None: ...

    def finished(self, *, wait: bool) -> list[Publication]:
        """Publications ended since the last call; `wait`: at least one, if any is under way."""


class Record(Protocol):
    """The part of RunRecord the driver writes to."""

    def add_published(self, shard_name: str, counts: Counts) -> None: ...
    def warn(self, message: str) -> None: ...
    def touch(self) -> None: ...


class IncompleteRun(Explained):
    """Passes over the unfinished shards bring nothing new."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the run is. `fraction` covers the whole output, the rest this invocation; the rate leaves start-up out."""

    num_rows: int
    num_errors: int
    mean_depth: float | None  # layers that tokens left at
    computed_depth: float | None  # layers computed for a token
    rows_per_s: float
    fraction: float
    eta_s: float | None
    num_shards_published: int
    num_shards: int
    audit: AuditState | None = None  # of the whole output; None: nothing is audited


class Pace:
    """How fast it goes: rows on average, and the time left by the later half of the time so far.

    The first chunks share the machine with workers that start and shards that are listed.
    """

    _MOST = 256  # moments kept; every other one is forgotten when there are more

    def __init__(self, start_s: float, fraction: float, num_rows: int) -> None:
        self._start_s, self._start_rows = start_s, num_rows
        self._moments = [(start_s, fraction)]

    def rows_per_s(self, now_s: float, num_rows: int) -> float:
        elapsed_s = now_s - self._start_s
        return (num_rows - self._start_rows) / elapsed_s if elapsed_s > 0 else 0.0

    def left_s(self, now_s: float, fraction: float) -> float | None:
        """None while nothing has been gained."""
        self._moments.append((now_s, fraction))
        if len(self._moments) > self._MOST:
            del self._moments[1::2]
        half_s = (self._start_s + now_s) / 2
        since_s, before = next(moment for moment in reversed(self._moments) if moment[0] <= half_s)
        if fraction <= before:  # a long wait: the average knows more
            since_s, before = self._moments[0]
        return (now_s - since_s) * (1 - fraction) / (fraction - before) if fraction > before else None


class Driver:
    """One run's bookkeeping; `finish` returns when every shard is published."""

    def __init__(
        self,
        config: JobConfig,
        storage: Storage,
        ledger: Ledger,
        shards: Sequence[Shard],
        record: Record,
        publisher: Publisher,
        on_progress: Callable[[Progress], None],
        check_lease: Callable[[], None],
        num_layers: int | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._watch = watch
        self._config, self._storage, self._ledger, self._shards = config, storage, ledger, shards
        self._record, self._publisher = record, publisher
        self._on_progress, self._check_lease = on_progress, check_lease
        self._work, self._num_layers = work_of(config.engine.model_dump(mode="json")), num_layers
        self._num_rows = self._num_errors = self._num_layers_run = self._num_caught_up = self._num_steps = 0
        self._error_types: Counter[str] = Counter()
        self._num_published = self._num_unreadable = 0  # by this invocation
        self._weights = {shard.name: max(1, shard.weight) for shard in shards}
        self._weight_published = float(sum(self._weights[name] for name in ledger.published))
        self._pace: Pace | None = None  # from the first chunk on
        self._reported_s = -_REPORT_S

    def finish(self, run_pass: RunPass) -> None:
        """Pass over the unfinished shards, a few at a time, until there are none."""
        self._publish_complete(wait=True)  # what a killed run had staged
        if self._watch is not None and self._watch.alarm is not None:  # of an earlier start
            self._promise_is_broken(self._watch)
        idle_passes = 0
        while not self._ledger.finished:
            before, chosen = self._fraction(), self._next_shards()
            for summary in run_pass([shard_task(s, sorted(self._ledger.open[s.name].staged)) for s in chosen]):
                self._count(summary)
                self._publish_complete(wait=False)
                self._report()
                self._stop_if_going_wrong()
            self._publish_complete(wait=True)
            if left := [shard.name for shard in chosen if shard.name in self._ledger.open]:
                _LOG.warning("another pass over %d shards that are not complete: %s", len(left), ", ".join(left[:5]))
            idle_passes = idle_passes + 1 if self._fraction() <= before else 0
            if idle_passes >= _MAX_IDLE_PASSES:
                open_shards = sorted(self._ledger.open)[:5]
                raise IncompleteRun(
                    f"{idle_passes} passes over shards {open_shards} brought nothing; see that the output is the same "
                    "place for every node, and can be written there"
                )
        self._storage.remove_folder(STAGING)  # chunks that a retried task committed once more after publication
        remove_temporaries(self._storage)
        second_chance.close(self._storage)
        self._on_progress(self._progress())

    def _next_shards(self) -> list[Shard]:
        """Return the first that are unfinished."""
        unfinished = (shard for shard in self._shards if shard.name in self._ledger.open)
        return list(itertools.islice(unfinished, MOST_SHARDS_A_PASS))

    def _count(self, summary: dict[str, Any]) -> None:
        self._ledger.record_staged(summary["shard"], summary["chunk"], summary["num_chunks"])
        self._num_rows += summary["num_rows"]
        self._num_errors += summary["num_errors"]
        self._num_layers_run += summary["num_layers_run"]
        self._num_caught_up += summary["num_layers_caught_up"]
        self._num_steps += summary["num_steps"]
        self._error_types.update(json.loads(summary["error_types"]))
        if self._watch is not None and self._watch.take(summary):
            self._promise_is_broken(self._watch)
        if self._pace is None:
            self._pace = Pace(time.monotonic(), self._fraction(), self._num_rows)

    def _promise_is_broken(self, watch: Watch) -> None:
        self._record.warn(watch.sentence)
        if watch.stops:
            raise PromiseBroken(
                f"{watch.sentence}; with --set audit.on_broken_promise=full_depth, or warn, the same command continues"
            )

    def _publish_complete(self, *, wait: bool) -> None:
        """Start publishing shards that look complete; take in what has been published. `wait`: until all are."""
        while True:
            for name in sorted(self._ledger.complete - self._publisher.busy):
                if not self._publisher.full:
                    self._publisher.start(name)
            if not self._publisher.busy:
                return
            ended = self._publisher.finished(wait=wait)
            for publication in ended:
                self._take_in(publication)
            if not ended:
                return

    def _take_in(self, publication: Publication) -> None:
        if publication.counts is None:
            _LOG.warning("chunks %s of %s are missing or damaged, and done again", publication.redo, publication.shard)
            self._ledger.record_redo(publication.shard, publication.redo)
        else:
            self._ledger.record_published(publication.shard)
            self._weight_published += self._weights[publication.shard]
            self._record.add_published(publication.shard, publication.counts)
            if publication.left is not None:
                self._record.warn(publication.left)
            self._num_published += 1
            self._num_unreadable += publication.counts.num_samples == 0 and publication.counts.num_shard_errors > 0
            self._stop_if_shards_are_unreadable()

    def _stop_if_shards_are_unreadable(self) -> None:
        """They have no rows that could be counted, and a storage that is away would use up all of them.

        Shards that are being worked on count as readable: good ones take longer than bad ones.
        """
        limit, num_judged = self._config.output.max_error_fraction, self._num_published + len(self._ledger.started)
        if num_judged >= _MIN_SHARDS_TO_JUDGE and self._num_unreadable > limit * num_judged:
            raise TooManyErrors(
                f"{self._num_unreadable} of {num_judged} shards could not be read, more than "
                f"output.max_error_fraction={limit:g}; errors/ says why"
            )

    def _stop_if_going_wrong(self) -> None:
        limit = self._config.output.max_error_fraction
        if self._num_rows >= _MIN_ROWS_TO_JUDGE and self._num_errors > limit * self._num_rows:
            frequent = ", ".join(f"{count} x {error}" for error, count in self._error_types.most_common(5))
            raise TooManyErrors(
                f"{self._num_errors} of {self._num_rows} rows failed, more than "
                f"output.max_error_fraction={limit:g}: {frequent}"
            )

    def _report(self) -> None:
        """A few times a second, show progress, give a sign of life and check that the output is still ours."""
        if time.monotonic() - self._reported_s >= _REPORT_S:
            self._reported_s = time.monotonic()
            self._on_progress(self._progress())
            self._record.touch()
            self._check_lease()

    def _fraction(self) -> float:
        """Return the share of the source, by bytes, that is staged or published."""
        done = self._weight_published
        for name in self._ledger.started:
            book = self._ledger.open[name]
            done += self._weights[name] * len(book.staged) / book.num_chunks if book.num_chunks else 0.0
        return done / sum(self._weights.values()) if self._weights else 1.0

    def _progress(self) -> Progress:
        now_s, fraction = time.monotonic(), self._fraction()
        computed = computed_depth(
            self._num_caught_up, self._num_layers_run, self._num_steps, self._work, self._num_layers
        )
        pace = self._pace or Pace(now_s, fraction, self._num_rows)
        return Progress(
            num_rows=self._num_rows,
            num_errors=self._num_errors,
            mean_depth=self._num_layers_run / self._num_steps if self._num_steps else None,
            computed_depth=computed,
            rows_per_s=pace.rows_per_s(now_s, self._num_rows),
            fraction=fraction,
            eta_s=pace.left_s(now_s, fraction),
            num_shards_published=len(self._ledger.published),
            num_shards=len(self._shards),
            audit=None if self._watch is None else self._watch.state,
        )
