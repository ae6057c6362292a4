"""What a run would do and about how long it would take, from its source and its output alone: nothing is started."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from conf.checkpoint_info import CheckpointInfo
from conf.schema import JobConfig
from pipeline.ops.cluster import Fit
from pipeline.output.lease import look
from pipeline.output.output import Output
from pipeline.output.settings import content_settings
from pipeline.output.staging import load_index
from pipeline.output.status import read_status
from pipeline.output.storage import Storage
from pipeline.run import pre_flight
from pipeline.source.plan import LeftOut, Shard, Unit, sum_left_out
from pipeline.source.readers import Reader, make_reader

_THREADS = 16


@dataclass(frozen=True, slots=True)
class Speed:
    """What an earlier run achieved, its start-up included."""

    output: str
    samples: int
    actor_s: float

    @property
    def samples_per_actor_s(self) -> float:
        return self.samples / self.actor_s


@dataclass(frozen=True, slots=True)
class Preview:
    """Counts are of samples; None: not known. Estimates extrapolate from the shards that were counted, by size."""

    output: str
    held_by: str | None  # a living run that has the output now
    shards: int
    size_bytes: int  # of the shards that are counted in bytes
    size_rows: int  # of the others
    shards_published: int
    shards_started: int
    shards_retried: int  # published, to be opened again for their failed rows
    shards_counted: int  # whose samples are known
    samples_counted: int
    samples_estimated: float | None
    samples_done: int
    left_out: tuple[LeftOut, ...]  # by the listing, and in the shards that were counted
    chunks_counted: int
    chunks_staged: int
    num_actors: int
    actor_cpus: float
    actor_gpus: float
    speed: Speed | None
    time_s: float | None
    cost: float | None
    currency: str

    @property
    def samples_left(self) -> float | None:
        return None if self.samples_estimated is None else max(0.0, self.samples_estimated - self.samples_done)


def preview(
    config: JobConfig, info: CheckpointInfo, fit: Fit, *, count_all: bool = False, like: str | None = None
) -> Preview:
    """Return the run's preview; UserError for whatever the run itself would refuse before it starts.

    `count_all` opens every shard to count its samples. `like`: the output of another run, for speed and sample sizes.
    """
    reader = make_reader(config.source)
    decision = pre_flight(Storage(config.output.path), config, content_settings(config, info), reader)
    output, overwrite, shards = Output(decision.storage), decision.overwrite, decision.shards
    names, storage = {shard.name for shard in shards}, output.storage
    published = set() if overwrite else names & (output.published() - output.reopened())
    staged = {} if overwrite else output.staged_samples(but=published)
    found = {} if overwrite else _published(output, published)
    found |= _indexed(storage, reader, [s for s in shards if s.name not in found], count_all)
    counts = {name: own.num_samples for name, own in found.items()}
    weights = _sizes(shards, counts) or (_sizes_of_run(like) if like is not None else None)
    estimated = _estimate(shards, counts, weights)
    done = sum(counts[name] for name in published) + sum(sum(chunks.values()) for chunks in staged.values())
    speed = measured_speed(like if like is not None else storage.url)
    left, price = None if estimated is None else max(0.0, estimated - done), config.cost.price_per_hour
    time_s = None if speed is None or left is None else left / (speed.samples_per_actor_s * fit.num_actors)
    held = look(storage)
    return Preview(
        output=storage.url,
        held_by=held[0].who if held is not None and held[2] else None,
        shards=len(shards),
        size_bytes=sum(shard.weight for shard in shards if shard.unit is Unit.BYTES),
        size_rows=sum(shard.weight for shard in shards if shard.unit is Unit.ROWS),
        shards_published=len(published),
        shards_started=sum(1 for chunks in staged.values() if chunks),
        shards_retried=len(decision.retried),
        shards_counted=len(counts),
        samples_counted=sum(counts.values()),
        samples_estimated=estimated,
        samples_done=done,
        left_out=sum_left_out([*decision.listing.left_out, *(part for own in found.values() for part in own.left_out)]),
        chunks_counted=sum(max(1, -(-count // config.source.chunk_rows)) for count in counts.values()),
        chunks_staged=sum(len(chunks) for chunks in staged.values()),
        num_actors=fit.num_actors,
        actor_cpus=fit.actor_cpus,
        actor_gpus=fit.actor_gpus,
        speed=speed,
        time_s=time_s,
        cost=None if time_s is None or price is None else price * time_s / 3600,
        currency=config.cost.currency,
    )


def measured_speed(output: str) -> Speed | None:
    """Return the samples per second and actor of the run in an output; None if it has done nothing yet."""
    there = Output.at(Storage(output))
    published = there.published()
    if not published:
        return None
    status = read_status(output)
    samples = sum(own.num_samples for own in there.counts(published).values()) + status.samples_staged
    return Speed(output, samples, status.actor_s) if samples and status.actor_s > 0 else None


@dataclass(frozen=True, slots=True)
class _Found:
    """What is known to be in one shard."""

    num_samples: int
    left_out: tuple[LeftOut, ...]


def _published(output: Output, names: set[str]) -> dict[str, _Found]:
    return {name: _Found(own.num_samples, own.left_out) for name, own in output.counts(names).items()}


def _indexed(storage: Storage, reader: Reader, shards: Sequence[Shard], count_all: bool) -> dict[str, _Found]:
    """Of shards not published: those that an earlier run has indexed, and with `count_all` the others, opened now."""
    by_name = {shard.name: shard for shard in shards}

    def look(name: str) -> _Found | None:
        if by_name[name].sizes:  # of files that are rows
            return _Found(len(by_name[name].sizes), ())
        if by_name[name].unit is Unit.ROWS:
            return _Found(by_name[name].weight, ())
        found = load_index(storage, name) or (reader.index(by_name[name]) if count_all else None)
        return None if found is None else _Found(len(found.samples), found.left_out)

    with ThreadPoolExecutor(_THREADS) as pool:
        return {name: own for name, own in zip(by_name, pool.map(look, by_name), strict=True) if own is not None}


def _sizes(shards: Sequence[Shard], counts: Mapping[str, int]) -> tuple[int, int] | None:
    """(bytes, samples) of the shards that were counted; None if that says nothing."""
    counted = [shard for shard in shards if shard.name in counts and shard.unit is Unit.BYTES]
    size_bytes, samples = sum(shard.weight for shard in counted), sum(counts[shard.name] for shard in counted)
    return (size_bytes, samples) if size_bytes and samples else None


def _sizes_of_run(output: str) -> tuple[int, int] | None:
    there = Output.at(Storage(output))
    planned = there.planned()
    counts = there.counts(planned.keys() & there.published())
    return _sizes(list(planned.values()), {name: own.num_samples for name, own in counts.items()})


def _estimate(shards: Sequence[Shard], counts: Mapping[str, int], sizes: tuple[int, int] | None) -> float | None:
    """Return the number of samples of all shards; exact if all were counted."""
    unknown_bytes = sum(shard.weight for shard in shards if shard.name not in counts)
    known = sum(counts.values())
    if all(shard.name in counts for shard in shards):
        return float(known)
    return None if sizes is None else known + unknown_bytes * sizes[1] / sizes[0]
