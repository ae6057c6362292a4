"""The dataflow, and above it the run: shards in, published Parquet out, every input row exactly once.

    stage           one row is    columns after it                                  runs as
    --------------  ------------  ------------------------------------------------  --------------------------------
    from_items      a shard       shard, staged                                     -
    IndexShard      a chunk*      shard, chunks, num_chunks, index                  CPU tasks, a few at a time
    PrepareChunk    a chunk       shard, chunk, num_chunks, rows, pixels            CPU tasks, as many as fit
    Captioner       a chunk       tables.SUMMARY: counts of what was committed      actors, one engine each
    Driver          -             publishes a shard once all its chunks are staged  here, publication in Ray tasks

    * all unfinished chunks of a compressed shard are one row, because they must be read in one go

Ray executes each stage at least once. Exactly-once comes from storage: a chunk is committed as one atomic file by the
captioner, a shard is published only after an audit of those files, and a pass that ends with unpublished shards (Ray
lost something) is followed by another pass over just those.
"""

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from conf.checkpoint_info import CheckpointInfo
from conf.schema import JobConfig
from pipeline import left_out
from pipeline.cluster import Fit, check_outlives_job, fit_cluster, plain_errors, ray_cluster
from pipeline.crash_log import CrashLog
from pipeline.driver import Driver, Progress
from pipeline.duplicates import AnswerBook
from pipeline.energy import EnergyMeter
from pipeline.lease import Lease
from pipeline.ledger import Ledger, remove_temporaries
from pipeline.preflight import check_fields
from pipeline.prometheus import DriverMeter
from pipeline.publisher import RayPublisher
from pipeline.readers import Reader, make_reader
from pipeline.resume import begin, decide
from pipeline.run_record import RunRecord
from pipeline.settings import content_settings
from pipeline.sink import RESULTS
from pipeline.stages import IndexShard, PrepareChunk
from pipeline.storage import Storage

_LOG = logging.getLogger(__name__)
_INDEX_TASKS = 8
_IDLE = 0.25  # share of its concurrent calls below which a pool gives actors back, down to actors.min_actors
_MAX_INPUT_BLOCKS = 1000  # of shard descriptions; more would only fill the object store's books


@dataclass(frozen=True, slots=True)
class CaptionerSpec:
    """The actor class of the last stage and what it is constructed with, given by the job: pipeline imports no actors.

    It is constructed as actor_class(make_backend, storage, crash_log, invocation, passthrough, answers).
    """

    actor_class: type
    make_backend: Callable[[], Any]


def run(
    config: JobConfig,
    info: CheckpointInfo,
    captioner: CaptionerSpec,
    on_progress: Callable[[Progress], None] = lambda _: None,
    reader: Reader | None = None,
) -> dict[str, Any]:
    """Do what is left of this run; gives the content of run.json. UserErrors are raised before anything is written.

    `reader`: another one than the source's kind has.
    """
    start_s = time.time()  # listing the source and starting Ray are paid for too
    output, given, reader = Storage(config.output.path), reader, reader or make_reader(config.source)
    check_outlives_job(output.url)
    settings = content_settings(config, info)
    early = decide(output, config, settings, reader)
    if early.listing.left_out:
        _LOG.info("%s", left_out.sentence(early.listing.left_out))
    if early.finished is not None:
        return early.finished
    if given is None and early.is_new:  # what has been begun goes on as it was begun
        check_fields(reader, config.source, early.shards)
    with ray_cluster():
        import ray

        fit = fit_cluster(config)
        with Lease(output) as lease:
            remove_temporaries(lease.storage)  # first: a writer that lost the output may be just before its rename
            decision = decide(lease.storage, config, settings, reader, early)
            if decision.finished is not None:  # by another run, meanwhile
                return decision.finished
            if decision.overwrite and lease.storage.names(RESULTS):
                check_engine(captioner, config, fit)
            begun, shards = begin(decision, config, settings, reader), decision.shards
            storage, passthrough = begun.storage, begun.passthrough
            ledger = Ledger.from_storage(storage, [shard.name for shard in shards])
            energy = EnergyMeter() if len(ray.nodes()) == 1 else None  # type: ignore[no-untyped-call]
            with RunRecord(storage, config, info, settings, fit, ledger, start_s, energy) as record, plain_errors():
                for why in begun.warnings:
                    record.warn(why)
                # It may die with its node; a new one has forgotten everything, which costs deaths but no rows.
                crash_log = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(CrashLog).remote()
                remembered = config.preprocess.duplicates_remembered
                book = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(AnswerBook) if remembered else None
                answers = book.remote(remembered) if book is not None else None
                # What is staged is the same whoever of this generation stages it, so that needs no permit.
                index = IndexShard(reader, storage.permitted_by(None), config.source.chunk_rows)
                prepare = PrepareChunk.from_config(
                    config, reader, info.model.image_size, crash_log, passthrough, info.model.encoder.max_prompt_tokens
                )
                actor_args = (captioner.make_backend, storage, crash_log, record.invocation, passthrough, answers)
                publisher = RayPublisher(storage, passthrough)
                meter = DriverMeter(storage.url, config.cost, then=on_progress)
                Driver(config, storage, ledger, shards, record, publisher, meter, lease.check).finish(
                    lambda tasks: summaries(tasks, index, prepare, captioner.actor_class, actor_args, config, fit)
                )
            return record.content


def check_engine(captioner: CaptionerSpec, config: JobConfig, fit: Fit) -> None:
    """Load the model once, where and as the actors will, and let it go. What that raises is raised here, before an
    earlier run is deleted for one that cannot even start."""
    import ray

    options: dict[str, Any] = {
        "num_cpus": fit.actor_cpus,
        "num_gpus": fit.actor_gpus or None,
        "accelerator_type": config.actors.accelerator_type,
        "label_selector": config.actors.label_selector or None,
        "max_calls": 1,  # the process ends and gives the memory of its device back
        "max_retries": 0,
    }
    load = ray.remote(**options)(load_model)
    with plain_errors():
        ray.get(load.remote(captioner.make_backend))


def load_model(make_backend: Callable[[], Any]) -> None:
    """As an actor does when it is made."""
    make_backend().make_engine()  # which may still find that the settings do not fit the model


def summaries(
    tasks: Sequence[dict[str, Any]],
    index: IndexShard,
    prepare: PrepareChunk,
    captioner: type,
    captioner_args: tuple[Any, ...],
    config: JobConfig,
    fit: Fit,
) -> Iterator[dict[str, Any]]:
    """The dataflow: shards in, one summary per committed chunk out."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

    context = DataContext.get_current().copy()
    context.target_max_block_size = 1  # every row is a block of its own: chunks are never merged
    context.enable_progress_bars = False
    # Getting an actor back costs a model load. Unless fewer are asked for, one goes only when none has work, as when
    # a node was lost and actors have all the CPUs that preprocessing needs.
    idle = 0.0 if config.actors.min_actors is None else _IDLE
    context.autoscaling_config.actor_pool_util_downscaling_threshold = idle
    chunk_by_chunk: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}
    # A pool size of its own for every stage also keeps Ray from fusing them: preprocessing must not run in the actor.
    index_tasks = TaskPoolStrategy(min(_INDEX_TASKS, len(tasks)))
    prepare_tasks = TaskPoolStrategy(
        config.preprocess.max_tasks or max(1, int(fit.cluster_cpus / config.preprocess.num_cpus))
    )
    in_flight = config.actors.chunks_in_flight  # Ray adds actors only while each has 1.75 times as many given to it
    actors = ActorPoolStrategy(
        min_size=fit.min_actors,
        max_size=fit.max_actors,
        initial_size=fit.num_actors,
        max_concurrent_calls_per_actor=in_flight,
        max_tasks_in_flight_per_actor=in_flight + 1 if fit.min_actors == fit.max_actors else 2 * in_flight,
    )
    with DataContext.current(context), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The (min|max)imum number of concurrent")  # few chunks are no mistake
        dataset = (
            ray.data.from_items(list(tasks), override_num_blocks=min(len(tasks), _MAX_INPUT_BLOCKS))
            .map_batches(index, compute=index_tasks, num_cpus=0, **chunk_by_chunk)
            .map_batches(prepare, compute=prepare_tasks, num_cpus=config.preprocess.num_cpus, **chunk_by_chunk)
            .map_batches(
                captioner,
                fn_constructor_args=captioner_args,
                compute=actors,
                num_cpus=fit.actor_cpus,
                num_gpus=fit.actor_gpus or None,
                accelerator_type=config.actors.accelerator_type,
                label_selector=config.actors.label_selector or None,
                **chunk_by_chunk,
            )
        )
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from batch.to_pylist()  # type: ignore[union-attr,operator]
