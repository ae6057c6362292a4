"""Held-out rows: packed for teacher-forced passes, decoded by the engine, and scored."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from actors.engine.beam.beam_engine import BeamEngine
from actors.engine.drain import drain
from actors.engine.engine import Engine
from actors.engine.request import Completion, Request
from actors.engine_factory import make_engine
from actors.model.checkpoint import Checkpoint
from actors.model.model import PackedBatch
from actors.training.packing import Pair, Sharing, pack
from actors.training.rows.row import DecodedRows, ImageRows, Row, decode
from actors.training.rows.targets import Targets
from conf.engine import EngineConfig
from conf.image_plan import ImagePlan
from conf.schema import PreprocessConfig
from pipeline.images.decode import ImageProblem
from pipeline.metrics.answers import vqa_accuracy
from pipeline.metrics.captions import similar
from pipeline.source.references import Kind

_CAPTIONS, _ANSWERS, _OWN = "ROUGE-L of captions", "accuracy of answers", "ROUGE-L against the original's texts"


@dataclass(frozen=True)
class HeldOut:
    """Images with their rows, as files; `most_rows` of each image are used."""

    images: tuple[ImageRows, ...]
    plan: ImagePlan
    preprocess: PreprocessConfig

    @classmethod
    def of(
        cls, images: Sequence[ImageRows], most_rows: int, plan: ImagePlan, preprocess: PreprocessConfig
    ) -> "HeldOut":
        """Keep the first rows of each image."""
        few = tuple(dataclasses.replace(image, rows=image.rows[:most_rows]) for image in images)
        return cls(few, plan, preprocess)

    def labelled(self, targets: Targets) -> "HeldOut":
        """Return the same rows with their targets made anew."""

        def again(row: Row) -> Row:
            labelled = targets.label(row)
            assert isinstance(labelled, Row), "they had targets before"
            return labelled

        images = (dataclasses.replace(image, rows=tuple(map(again, image.rows))) for image in self.images)
        return dataclasses.replace(self, images=tuple(images))

    @property
    def rows(self) -> list[Row]:
        return [row for image in self.images for row in image.rows]

    def __len__(self) -> int:
        return len(self.images)

    def decoded(self) -> Iterator[DecodedRows]:
        for image in self.images:
            decoded = decode(image, self.plan, self.preprocess)
            assert not isinstance(decoded, ImageProblem), "they could be decoded before"
            yield decoded

    def batches(
        self, checkpoint: Checkpoint, targets: Targets, size: int, device: torch.device
    ) -> Iterator[PackedBatch]:
        """Yield all images in order, `size` at a time."""
        sharing, images = Sharing.of(checkpoint.model), self.decoded()
        while part := list(itertools.islice(images, size)):
            yield pack(checkpoint.config, [pairs_of(image, targets) for image in part], device, sharing)

    def engine(self, checkpoint: Checkpoint, targets: Targets, config: EngineConfig) -> Engine | BeamEngine:
        """Return an engine with room for what these rows are given to begin with; outputs are as long as they can be
        after it."""
        longest = max((len(targets.prefix_ids(row)) for row in self.rows), default=0)
        room = max(1, checkpoint.config.decoder.max_positions - longest)
        limit = min(config.generation.max_new_tokens, room)
        generation = config.generation.model_copy(update={"max_prefix_tokens": longest, "max_new_tokens": limit})
        return make_engine(checkpoint, config.model_copy(update={"generation": generation}))

    def said(self, engine: Engine | BeamEngine, targets: Targets, ahead: int = 64) -> list[Completion]:
        """Return what an engine says of every row, in order; so many are decoded before they are needed."""
        return drain(engine, self.requests(targets), ahead=ahead)

    def requests(self, targets: Targets) -> Iterator[Request]:
        """Yield what an engine is asked for every row, in order."""
        numbers = itertools.count()
        for image in self.decoded():
            for place, row in enumerate(image.rows):
                prompt_ids, prefix_ids = targets.prompt_ids(row), targets.prefix_ids(row)
                yield Request(next(numbers), image.pixels_of(place), prompt_ids, prefix_ids=prefix_ids)

    def first(self, count: int) -> "HeldOut":
        return HeldOut(self.images[:count], self.plan, self.preprocess)


def pairs_of(image: DecodedRows, targets: Targets) -> list[Pair]:
    """Return the rows of an image as the model reads them, each with its first target."""
    return [
        Pair(image.pixels_of(place), targets.prompt_ids(row), row.targets[0], targets.prefix_ids(row))
        for place, row in enumerate(image.rows)
    ]


def quality(
    rows: Sequence[Row], texts: Sequence[str], labelled: Sequence[bool], own: Sequence[str]
) -> dict[str, float]:
    """Return points from 0 to 100 by what they measure: against labels where a task has them, else against `own`, the
    texts that the original says at full depth. `labelled`: by task."""
    by_metric: dict[str, list[float]] = {}
    for row, text, original in zip(rows, texts, own, strict=True):
        if not labelled[row.task]:
            by_metric.setdefault(_OWN, []).append(similar(text, [original]))
        elif row.reference is not None and row.reference.kind is Kind.ANSWER:
            by_metric.setdefault(_ANSWERS, []).append(vqa_accuracy(text, list(row.reference.texts)))
        elif row.reference is not None:
            by_metric.setdefault(_CAPTIONS, []).append(similar(text, list(row.reference.texts)))
    return {name: 100 * float(np.mean(values)) for name, values in by_metric.items()}
