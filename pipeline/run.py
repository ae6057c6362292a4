"""A run, from its pre-flight to run.json: the output is held, and the dataflow driven until every row is there."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from conf.checkpoint_info import CheckpointInfo
from conf.resolve import image_plan
from conf.schema import JobConfig
from pipeline.dataflow import summaries
from pipeline.driver import Driver, Progress
from pipeline.ops.cluster import Fit, check_outlives_job, fit_cluster, plain_errors, ray_cluster
from pipeline.ops.energy import EnergyMeter
from pipeline.ops.prometheus import DriverMeter
from pipeline.output.lease import Lease
from pipeline.output.ledger import Ledger, remove_temporaries
from pipeline.output.publish import published_shards
from pipeline.output.publish_tasks import RayPublisher
from pipeline.output.resume import Decision, begin, decide
from pipeline.output.run_record import RunRecord
from pipeline.output.settings import content_settings
from pipeline.output.storage import Storage
from pipeline.preflight import check_fields
from pipeline.promise.watch import Watch
from pipeline.services import RunServices
from pipeline.source import left_out
from pipeline.source.readers import Reader, make_reader
from pipeline.stages import IndexShard, PrepareChunk

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CaptionerSpec:
    """The last stage, given by the job: pipeline imports no actors."""

    actor_class: type  # called with make_backend and RunServices
    make_backend: Callable[[], Any]


def run(
    config: JobConfig,
    info: CheckpointInfo,
    captioner: CaptionerSpec,
    on_progress: Callable[[Progress], None] = lambda _: None,
    reader: Reader | None = None,
) -> dict[str, Any]:
    """Do what is left of this run; return the content of run.json. UserErrors are raised before anything is written.

    `reader`: another one than the source's kind has.
    """
    start_s = time.time()  # listing the source and starting Ray are paid for too
    output, given, reader = Storage(config.output.path), reader, reader or make_reader(config.source)
    check_outlives_job(output.url)
    settings = content_settings(config, info)
    early = pre_flight(output, config, settings, reader, names=given is None)
    if early.finished is not None:
        return early.finished
    with ray_cluster():
        import ray

        fit = fit_cluster(config)
        with Lease(output) as lease:
            remove_temporaries(lease.storage)  # first: a writer that lost the output may be just before its rename
            decision = decide(lease.storage, config, settings, reader, early)
            if decision.finished is not None:  # by another run, meanwhile
                return decision.finished
            if decision.overwrite and published_shards(lease.storage):
                check_engine(captioner, config, fit)
            begun, shards = begin(decision, config, settings, reader), decision.shards
            storage, passthrough = begun.storage, begun.passthrough
            ledger = Ledger.from_storage(storage, [shard.name for shard in shards])
            energy = EnergyMeter() if len(ray.nodes()) == 1 else None  # type: ignore[no-untyped-call]
            watch = Watch.resume(config, info, storage, ledger)
            record = RunRecord(storage, config, info, settings, fit, ledger, start_s, energy, watch)
            with record, plain_errors():
                for why in begun.warnings:
                    record.warn(why)
                remembered = config.preprocess.duplicates_remembered
                audit = None if watch is None else watch.plan
                services = RunServices.start(
                    storage, record.invocation, passthrough, remembered=remembered, audit=audit
                )
                if watch is not None and services.audit is not None:
                    watch.follow(services.audit.flag)
                # What is staged is the same whoever of this incarnation stages it, so that needs no permit.
                index = IndexShard(reader, storage.permitted_by(None), config.source.chunk_rows)
                plan = image_plan(info.model, config.preprocess)
                prepare = PrepareChunk.from_config(config, reader, plan, services, info.model.encoder.max_prompt_tokens)
                actor_args = (captioner.make_backend, services)
                publisher = RayPublisher(storage, passthrough)
                meter = DriverMeter(storage.url, config.cost, then=on_progress)
                num_layers = info.model.decoder.num_layers
                driver = Driver(
                    config, storage, ledger, shards, record, publisher, meter, lease.check, num_layers, watch
                )
                driver.finish(
                    lambda tasks: summaries(tasks, index, prepare, captioner.actor_class, actor_args, config, fit)
                )
            return record.content


def pre_flight(
    output: Storage, config: JobConfig, settings: Mapping[str, Any], reader: Reader, *, names: bool = True
) -> Decision:
    """Decide what a run would do; UserError for whatever it would refuse. Reads only.

    `names`: a new output is begun only with fields that its source has. What has been begun goes on as it was begun.
    """
    decision = decide(output, config, settings, reader)
    if decision.listing.left_out:
        _LOG.info("%s", left_out.sentence(decision.listing.left_out))
    if names and decision.is_new:
        check_fields(reader, config.source, decision.shards)
    return decision


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
