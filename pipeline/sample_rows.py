"""One sample -> its prepared rows, step by step; whatever a step raises costs this sample and no other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from conf.schema import PromptConfig
from pipeline.plan import Shard, given_id, sample_id
from pipeline.preprocess import ImageProblem, Pixels
from pipeline.prompts import limit_of, make_prompts
from pipeline.readers import RawSample
from pipeline.tables import SOURCE_PREFIX, Passthrough
from pipeline.text import storable
from pipeline.unexpected import UNEXPECTED, describe_unexpected

Decode = Callable[[bytes], Pixels | ImageProblem]


class Images:
    """The pixels of one chunk in one buffer, which becomes the Arrow column as it is: no copy is made."""

    def __init__(self, capacity: int, image_size: int) -> None:
        self._pixels_NHWC = np.empty((capacity, image_size, image_size, 3), np.uint8)
        self._count = 0

    def add(self, pixels_HWC: np.ndarray[Any, np.dtype[np.uint8]]) -> int:
        """Its index."""
        self._pixels_NHWC[self._count] = pixels_HWC
        self._count += 1
        return self._count - 1

    def column(self) -> pa.Array:
        """One row: the bytes of all images, one after the other."""
        used = self._pixels_NHWC[: self._count]
        offsets = pa.py_buffer(np.array([0, used.nbytes], np.int64))
        return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(used)])


class Wanted(Protocol):
    """What the job asks of every sample (pipeline.stages.PrepareChunk)."""

    @property
    def prompt(self) -> PromptConfig: ...
    @property
    def id_column(self) -> str | None: ...
    @property
    def passthrough(self) -> Passthrough: ...


@dataclass(slots=True)
class Draft:
    """A sample on its way: what its rows share so far, and in the end the rows."""

    shard: Shard
    raw: RawSample
    images: Images
    decode: Decode
    shared: dict[str, Any]
    prompts: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    limits: list[int | None] = field(default_factory=list)
    pixels: Pixels | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)


class SampleProblem(Exception):
    """The sample has no rows but one, of errors; `error_type` is a short fixed word, the message says the rest."""

    def __init__(self, error_type: str, message: str, attempts: int | None = None) -> None:
        super().__init__(message)
        self.error_type, self.attempts = error_type, attempts


def identify(wanted: Wanted, draft: Draft) -> None:
    given = draft.raw.fields.get(wanted.id_column) if wanted.id_column is not None else None
    if given is not None:
        draft.shared["sample_id"] = storable(given_id(given, draft.raw.sample))


def copy_fields(wanted: Wanted, draft: Draft) -> None:
    draft.shared.update(_passed(wanted.passthrough, draft.raw.fields))


def check_image(wanted: Wanted, draft: Draft) -> None:
    raw = draft.raw
    if raw.image is None:
        raise SampleProblem(raw.error_type or UNEXPECTED, raw.message or "no image", raw.attempts)


def ask(wanted: Wanted, draft: Draft) -> None:
    try:
        draft.prompts = make_prompts(wanted.prompt, draft.raw.fields)
    except LookupError as error:
        raise SampleProblem("no_prompt", f"{draft.shared['sample_id']}: {error.args[0]}") from None


def limit(wanted: Wanted, draft: Draft) -> None:
    try:
        draft.limits = [limit_of(wanted.prompt, {**draft.raw.fields, **item}) for _, item in draft.prompts]
    except ValueError as error:
        raise SampleProblem("bad_limit", f"{draft.shared['sample_id']}: {error}") from None


def decode_image(wanted: Wanted, draft: Draft) -> None:
    assert draft.raw.image is not None
    decoded = draft.decode(draft.raw.image)
    draft.shared.update(width=decoded.width, height=decoded.height)
    if isinstance(decoded, ImageProblem):
        raise SampleProblem(decoded.error_type, f"{draft.shared['sample_id']}: {decoded.message}")
    draft.pixels = decoded


def write_rows(wanted: Wanted, draft: Draft) -> None:
    assert draft.pixels is not None
    sample = {**draft.shared, "sha256": draft.pixels.sha256, "num_prompts": len(draft.prompts)}
    sample["pixel_index"] = draft.images.add(draft.pixels.pixels_HWC)
    for prompt_index, ((prompt, item), limit) in enumerate(zip(draft.prompts, draft.limits, strict=True)):
        passed = _passed(wanted.passthrough, {**draft.raw.fields, **item})
        asked = {"prompt_index": prompt_index, "prompt": storable(prompt), "max_new_tokens": limit}
        draft.rows.append({**sample, **passed, **asked})


STEPS: tuple[tuple[str, Callable[[Wanted, Draft], None]], ...] = (  # with the stage whose errors rows they make
    ("read", identify),
    ("read", copy_fields),
    ("read", check_image),
    ("read", ask),
    ("read", limit),
    ("preprocess", decode_image),
    ("preprocess", write_rows),
)


def rows_of_sample(
    wanted: Wanted, shard: Shard, raw: RawSample, images: Images, decode: Decode
) -> list[dict[str, Any]]:
    """The sample's rows: one for each prompt, or one that says why there are none. Never raises for a sample."""
    identity = sample_id(shard.name, raw.sample.key)
    shared = {"row": raw.sample.row, "key": raw.sample.key, "sample_id": identity, "num_prompts": 1}
    draft = Draft(shard, raw, images, decode, shared)
    for stage, step in STEPS:
        try:
            step(wanted, draft)
        except SampleProblem as problem:
            failed = {"error_type": problem.error_type, "message": str(problem), "attempts": problem.attempts}
            return [{**draft.shared, "stage": stage, **failed}]
        except Exception as error:
            message = f"{draft.shared['sample_id']}: {describe_unexpected(step.__name__, error)}"
            return [{**draft.shared, "stage": stage, "error_type": UNEXPECTED, "message": message}]
    return draft.rows


def _passed(passthrough: Passthrough, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Values as they are; pipeline.passthrough fits them into their columns."""
    names = (own if isinstance(own, str) else own.name for own in passthrough)
    return {SOURCE_PREFIX + name: fields.get(name) for name in names}
