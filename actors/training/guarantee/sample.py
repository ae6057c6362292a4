"""A source -> a random sample of its images with what full depth says of them: some to make thresholds by, the others
to test them on.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from actors.model.checkpoint import Checkpoint
from actors.training.exits.asked import Asked, ask
from actors.training.guarantee.bounds import Judge
from actors.training.rows.row import ImageRows
from actors.training.rows.row_source import Place, RowSource
from actors.training.rows.target_runs import finished_record, known_shards
from actors.training.rows.targets import Targets
from conf.engine import EngineConfig, Schedule, Weights
from conf.errors import UserError
from conf.evaluation import CalibrateConfig
from conf.guarantee import Corpus
from pipeline.source.plan import LeftOut, sample_id


@dataclass(frozen=True)
class Drawn:
    """Images of a corpus; no image is in both parts."""

    corpus: Corpus
    path: Asked
    tested: Asked
    engine: EngineConfig  # whose full depth said the texts
    left_out: tuple[LeftOut, ...]


def draw(config: CalibrateConfig, checkpoint: Checkpoint, engine: EngineConfig) -> Drawn:
    """Return the sample that a promise is made by; UserError where the source has too few images for it."""
    promise, judge = config.guarantee, Judge.of(config.guarantee)
    runs = [run for task in config.all_tasks if (run := task.target.run) is not None]
    engine = _as_in_runs(runs, checkpoint, engine)
    everything = config.model_copy(update={"max_images": sys.maxsize, "shard_order": "listed"})
    source = RowSource(everything, checkpoint.config.plan, known_shards(runs))
    places = source.sample(promise.path_images + promise.sample_images)
    judge.check(len(places) - _for_path(config, len(places)))
    targets = Targets(
        checkpoint, config.all_tasks if runs else (), runs, engine.generation.max_new_tokens,
        decoder_prefix=engine.generation.decoder_prefix,
    )  # fmt: skip
    targets.generation = engine.generation  # prefixes in tokens included
    together = sorted(places, key=lambda place: (place.shard, place.sample.row))
    asked = ask(source, targets, engine, together, config.prompts_per_image)
    images = _in_order_of(asked.images.images, source, places)
    count = _for_path(config, len(images))
    judge.check(len(images) - count)
    path, tested = (
        replace(asked, images=replace(asked.images, images=part)) for part in (images[:count], images[count:])
    )
    corpus = Corpus(
        paths=config.source.paths, kind=config.source.kind.value, num_images=len(source.places),
        fingerprint=source.fingerprint(),
    )  # fmt: skip
    return Drawn(corpus, path, tested, _with_room(engine, asked), source.left_out)


def _for_path(config: CalibrateConfig, images: int) -> int:
    """Return how many of so many images make the path: in proportion, where there are fewer than asked for."""
    path, sample = config.guarantee.path_images, config.guarantee.sample_images
    return min(path, max(1, images * path // (path + sample)))


def _in_order_of(images: Sequence[ImageRows], source: RowSource, places: Sequence[Place]) -> tuple[ImageRows, ...]:
    """Return the images in the random order that they were drawn in."""
    rank = {source.place_id(place): number for number, place in enumerate(places)}
    return tuple(sorted(images, key=lambda image: rank[sample_id(image.rows[0].shard, image.rows[0].key)]))


def _with_room(engine: EngineConfig, asked: Asked) -> EngineConfig:
    """Return the engine with the longest outputs that all of the images leave room for, as full depth had it, whichever
    of them are decoded."""
    room = max(1, asked.targets.checkpoint.config.decoder.max_positions - asked.longest_prefix)
    limit = min(engine.generation.max_new_tokens, room)
    return engine.model_copy(update={"generation": engine.generation.model_copy(update={"max_new_tokens": limit})})


def _as_in_runs(runs: Sequence[str], checkpoint: Checkpoint, engine: EngineConfig) -> EngineConfig:
    """Return the engine with the options that runs wrote their texts with; UserError where those are not full depth's
    texts of this checkpoint."""
    for run in runs:
        record = finished_record(run)
        if record.get("weights_sha256") != checkpoint.sha256:
            raise UserError(f"target.run {run!r} is of another checkpoint: a promise compares one with itself")
        values = (record.get("config") or {}).get("engine")
        if values is None:
            continue
        then = EngineConfig.from_record(values)
        if then.schedule is not Schedule.FULL and not then.lossless:
            raise UserError(f"target.run {run!r} left early; full depth's texts are needed, of engine.schedule=full")
        if then.weights is not Weights.FP32:
            raise UserError(f"target.run {run!r} had engine.weights={then.weights.value}, a guarantee is of fp32")
        asked_for = engine.generation.model_fields_set
        if asked_for and engine.generation != then.generation:
            raise UserError(f"target.run {run!r} had other engine.generation than is asked for here")
        engine = engine.model_copy(update={"generation": then.generation})
    return engine
