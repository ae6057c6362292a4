"""Rows of a source, what full depth says of them, and what every layer would have said."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from actors.engine.request import Request
from actors.model.checkpoint import Checkpoint
from actors.model.model import PackedBatch
from actors.training.exits.choice import Rows
from actors.training.exits.work import Texts
from actors.training.pretrained.held_out import HeldOut
from actors.training.rows.row import Row, first_prompts
from actors.training.rows.row_source import Place, RowSource
from actors.training.rows.targets import Targets
from actors.training.thresholds import record
from conf.engine import EngineConfig
from conf.exits import ExitsConfig
from conf.model import ModelConfig

_BATCH_IMAGES = 16


@dataclass(frozen=True)
class Asked:
    """Images with their rows; the first target of a row is what full depth says of it."""

    images: HeldOut
    targets: Targets

    @property
    def num_rows(self) -> int:
        return len(self.images.rows)

    @property
    def longest_prefix(self) -> int:
        """Return the room that an engine needs for what outputs begin with, tokens."""
        return max(len(self.targets.prefix_ids(row)) for row in self.images.rows)

    def halves(self) -> tuple["Asked", "Asked"]:
        """Return every other image, and the rest."""
        halves = (self.images.images[::2], self.images.images[1::2])
        first, second = (replace(self, images=replace(self.images, images=half)) for half in halves)
        return first, second

    def requests(self) -> Iterator[Request]:
        """Yield requests for all rows, whose outputs are no longer than what full depth says."""
        for row, request in zip(self.images.rows, self.images.requests(self.targets), strict=True):
            yield replace(request, max_new_tokens=len(row.targets[0]))

    def record(self, opened: Checkpoint) -> Rows:
        """Return what every layer of an opened checkpoint says of every token of full depth's texts."""
        return Rows(record(opened.model, self.batches(opened)), self.texts(opened.config))

    def batches(self, checkpoint: Checkpoint) -> Iterator[PackedBatch]:
        """Yield all rows, packed, on the checkpoint's device."""
        device = checkpoint.model.decoder.embedding.weight.device
        return self.images.batches(checkpoint, self.targets, _BATCH_IMAGES, device)

    def texts(self, config: ModelConfig) -> Texts:
        """Return how long full depth's texts are, in the order of their tokens in `batches`."""
        rows = self.images.rows
        given = [len(config.given_ids(self.targets.prefix_ids(row))) - 1 for row in rows]
        return Texts(np.array([len(row.targets[0]) for row in rows]), np.array(given))


def targets_of(config: ExitsConfig, checkpoint: Checkpoint, engine: EngineConfig) -> Targets:
    """Return what is asked of every image, and the runs that have said it, if any."""
    runs = [task.target.run for task in config.all_tasks]
    tasks = config.all_tasks if None not in runs else ()
    generation = engine.generation
    return Targets(
        checkpoint, tasks, runs if tasks else (), generation.max_new_tokens, decoder_prefix=generation.decoder_prefix
    )


def ask(
    source: RowSource, targets: Targets, engine: EngineConfig, places: Sequence[Place] | None = None,
    most_prompts: int | None = None,
) -> Asked:  # fmt: skip
    """Return the source's rows with what full depth says of them: by the runs of `targets`, or else decoded here.

    `places`: images to look at, those of a shard together; none: all of the source. `most_prompts`: of a task, for an
    image; none: all.

    UserError where there are fewer than two images to look at.
    """
    has_runs = any(said is not None for said in targets.said)

    def fits(row: Row) -> Row | str:
        return targets.problem(row) or row

    images = source.readable(source.places if places is None else places, targets.label if has_runs else fits)
    images = [first_prompts(image, most_prompts) for image in images]
    if len(images) < 2:
        raise source.nothing("two images to choose and to report by")
    held_out = HeldOut(tuple(images), source.plan, source.config.preprocess)
    return Asked(held_out if has_runs else _with_own_texts(held_out, targets, engine), targets)


def _with_own_texts(images: HeldOut, targets: Targets, config: EngineConfig) -> HeldOut:
    engine = images.engine(targets.checkpoint, targets, config.at_full_depth())
    said = iter(images.said(engine, targets))
    labelled = (replace(image, rows=tuple(replace(row, targets=(next(said).said_ids,)) for row in image.rows))
                for image in images.images)  # fmt: skip
    return replace(images, images=tuple(labelled))
