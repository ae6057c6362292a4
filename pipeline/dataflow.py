"""The whole job on one screen: shards in, published Parquet out, every input row exactly once.

    stage           one row is    columns after it                                  runs as
    --------------  ------------  ------------------------------------------------  --------------------------------
    from_items      a shard       shard, staged                                     -
    IndexShard      a chunk*      shard, chunks, num_chunks, index                  CPU tasks, a few at a time
    PrepareChunk    a chunk       shard, chunk, num_chunks, rows, pixels            CPU tasks, as many as fit
    Captioner       a chunk       tables.SUMMARY: counts of what was committed      actors, one engine each
    driver          -             publishes a shard once all its chunks are staged  here, publication in Ray tasks

    * all unfinished chunks of a compressed shard are one row, because they must be read in one go

Ray executes each stage at least once. Exactly-once comes from storage: a chunk is committed as one atomic file by the
captioner, a shard is published only after an audit of those files, and a pass that ends with unpublished shards (Ray
lost something) is followed by another pass over just those.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from conf.checkpoint_info import CheckpointInfo
from conf.errors import UserError
from conf.schema import JobConfig
from pipeline.cluster import Fit, fit_cluster, ray_cluster
from pipeline.lease import Lease
from pipeline.ledger import (
    Ledger,
    check_plan,
    check_settings,
    clear_output,
    content_settings,
    known_shards,
    save_plan,
    save_settings,
)
from pipeline.plan import Shard
from pipeline.readers import Reader, make_reader
from pipeline.run_record import RunRecord, TooManyErrors
from pipeline.sink import Publication, publish_shard
from pipeline.stages import IndexShard, PrepareChunk, shard_task
from pipeline.storage import Storage

_INDEX_TASKS = 8
_PUBLISH_TASKS = 8
_MIN_ROWS_TO_JUDGE = 1000
_REPORT_S = 0.2
_MAX_IDLE_PASSES = 3
_TASK_RETRIES = 64  # crashes of an actor that one chunk survives; bisection of a poison row needs about 2 log2(rows)


class IncompleteRun(Exception):
    """Passes over the unfinished shards bring nothing new."""


@dataclass(frozen=True, slots=True)
class CaptionerSpec:
    """The actor class of the last stage and what it is constructed with, given by the job: pipeline imports no actors.

    It is constructed as actor_class(make_backend, storage, invocation, passthrough).
    """

    actor_class: type
    make_backend: Callable[[], Any]


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


def run(
    config: JobConfig,
    info: CheckpointInfo,
    captioner: CaptionerSpec,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> dict[str, Any]:
    """Do what is left of this run and give the content of run.json. A UserError is raised before anything is written."""
    storage, reader = Storage(config.output.path), make_reader(config.source)
    settings = content_settings(config, info)
    overwrite = config.output.on_existing == "overwrite"
    known = {} if overwrite else known_shards(storage)
    shards = reader.shards({shard.url: name for name, shard in known.items()})
    if not overwrite:
        check_settings(storage, settings)
        check_plan(known, shards)
        if config.output.on_existing == "fail" and storage.exists("_state/config.json"):
            raise UserError(f"output {storage.url!r} holds a run already and output.on_existing=fail")
    with ray_cluster():
        fit = fit_cluster(config)
        with Lease(storage) as lease:
            if overwrite:
                clear_output(storage)
            save_settings(storage, settings)
            save_plan(storage, known, shards)
            ledger = Ledger.from_storage(storage, [shard.name for shard in shards])
            record = RunRecord(storage, config, info, settings, fit, ledger)
            driver = _Driver(config, storage, ledger, shards, record, on_progress, lease.check)
            with record:
                driver.finish(lambda tasks: summaries(tasks, config, info, fit, storage, reader, captioner, record.invocation))
            return record.content


def summaries(
    tasks: Sequence[dict[str, Any]],
    config: JobConfig,
    info: CheckpointInfo,
    fit: Fit,
    storage: Storage,
    reader: Reader,
    captioner: CaptionerSpec,
    invocation: str,
) -> Iterator[dict[str, Any]]:
    """The dataflow: shard tasks in, one summary per committed chunk out."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

    context = DataContext.get_current().copy()
    context.target_max_block_size = 1  # every row is a block of its own: chunks are never merged
    context.enable_progress_bars = False
    passthrough = config.source.passthrough
    one_row = {"batch_size": 1, "batch_format": "pyarrow"}
    with DataContext.current(context):
        dataset = (
            ray.data.from_items(list(tasks), override_num_blocks=min(len(tasks), 1000))
            .map_batches(
                IndexShard(reader, storage, config.source.chunk_rows),
                compute=TaskPoolStrategy(_INDEX_TASKS),  # a size of its own also keeps the stages from being fused
                num_cpus=0,
                **one_row,
            )
            .map_batches(
                PrepareChunk(
                    reader,
                    config.source.prompt,
                    config.source.id_column,
                    passthrough,
                    info.image_size,
                    config.preprocess.max_pixels,
                ),
                compute=TaskPoolStrategy(config.preprocess.max_tasks or max(1, int(fit.cluster_cpus))),
                num_cpus=config.preprocess.num_cpus,
                **one_row,
            )
            .map_batches(
                captioner.actor_class,
                fn_constructor_args=(captioner.make_backend, storage, invocation, passthrough),
                compute=ActorPoolStrategy(
                    size=fit.num_actors,
                    max_concurrent_calls_per_actor=config.actors.chunks_in_flight,
                    max_tasks_in_flight_per_actor=config.actors.chunks_in_flight + 1,
                ),
                num_cpus=fit.actor_cpus,
                num_gpus=fit.actor_gpus or None,
                max_restarts=1000,
                max_task_retries=_TASK_RETRIES,
                **one_row,
            )
        )
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
            yield from batch.to_pylist()


@dataclass
class _Driver:
    """The loop at the end of the dataflow: count, publish, report, stop."""

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

    def finish(self, run_pass: Callable[[list[dict[str, Any]]], Iterator[dict[str, Any]]]) -> None:
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

        task = ray.remote(num_cpus=0, max_retries=3)(publish_shard)
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
                f"{self.num_errors} of {self.num_rows} rows failed, more than output.max_error_fraction={limit:g}: {frequent}"
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
