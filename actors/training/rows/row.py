"""What a row is to training, calibration and evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from conf.image_plan import ImagePlan
from conf.schema import PreprocessConfig
from pipeline.images.decode import ImageProblem, Pixels, image_to_pixels
from pipeline.source.references import Reference

RowId = tuple[str, str, int, int]  # shard, key, task, prompt


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt of one image, and what is right for it; `reference` is None where nobody says.

    `task` is the one, of the configuration's `all_tasks`, that asks it.
    """

    shard: str
    key: str
    sample_id: str
    task: int
    prompt_index: int  # among the prompts of its task
    prompt: str
    reference: Reference | None = None
    targets: tuple[tuple[int, ...], ...] = ()  # what may be learned, end tokens included; one of them each epoch
    fields: Mapping[str, Any] = field(default_factory=dict)  # the configuration's `kept_fields`, those that it has

    @property
    def row_id(self) -> RowId:
        return self.shard, self.key, self.task, self.prompt_index


@dataclass(frozen=True, slots=True)
class ImageRows:
    """An image file that can be decoded, and its rows, of which there is at least one."""

    image: bytes
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class DecodedRows:
    """The rows of an image with what the model reads of it: one array [H, W, 3], or one for each row that is drawn."""

    rows: tuple[Row, ...]
    arrays: tuple[np.ndarray, ...]

    def pixels_of(self, place: int) -> np.ndarray:
        return self.arrays[place if len(self.arrays) > 1 else 0]


def first_prompts(image: ImageRows, most: int | None) -> ImageRows:
    """Return the image with so many rows of each task, the first ones; none: all."""
    if most is None:
        return image
    tasks = {row.task for row in image.rows}
    rows = [row for task in sorted(tasks) for row in [row for row in image.rows if row.task == task][:most]]
    return replace(image, rows=tuple(rows))


def decode(image: ImageRows, plan: ImagePlan, preprocess: PreprocessConfig) -> DecodedRows | ImageProblem:
    """Return what the model reads of an image, as the pipeline makes it (pipeline/sample_rows.py)."""
    decoded = image_to_pixels(
        image.image, plan=plan, texts=[row.prompt for row in image.rows],
        max_pixels=preprocess.max_pixels, max_decode_bytes=preprocess.max_decode_bytes,
    )  # fmt: skip
    return DecodedRows(image.rows, decoded.arrays) if isinstance(decoded, Pixels) else decoded
