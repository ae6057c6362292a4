"""One sample -> its prepared rows, step by step; whatever a step raises costs this sample and no other."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy.typing as npt

from conf.source import PromptConfig
from pipeline.images.decode import ImageProblem, Pixels
from pipeline.images.packed import ImagePacker, TooManyPixels
from pipeline.source.plan import Shard, given_id, sample_id
from pipeline.source.prompts import NoPrompts, Prompt, PromptLimits, limit_of, make_prompts, usable
from pipeline.source.readers import RawSample
from pipeline.tables import SOURCE_PREFIX, Passthrough
from pipeline.text import storable
from pipeline.unexpected_errors import UNEXPECTED, describe_unexpected


class Decode(Protocol):
    """Bytes of an image, and the texts that a plan may draw with it -> pixels."""

    def __call__(self, data: bytes, /, *, texts: Sequence[str]) -> Pixels | ImageProblem: ...


class Wanted(Protocol):
    """What the job asks of every sample (pipeline.stages.PrepareChunk)."""

    @property
    def prompt(self) -> PromptConfig: ...
    @property
    def id_column(self) -> str | None: ...
    @property
    def passthrough(self) -> Passthrough: ...
    @property
    def limits(self) -> PromptLimits: ...


@dataclass(slots=True)
class Draft:
    """A sample on its way: what its rows share so far, and in the end its rows, one after the other."""

    shard: Shard
    raw: RawSample
    images: ImagePacker
    decode: Decode
    shared: dict[str, Any]
    prompts: list[Prompt] = field(default_factory=list)
    pixel_indices: list[int] = field(default_factory=list)  # of each prompt that can be asked, or one for all of them
    number: int = 0  # of the prompt whose row is being made
    row: dict[str, Any] = field(default_factory=dict)


class RowProblem(Exception):
    """This row, or this sample, cannot be done; `error_type` is a short fixed word, the message says the rest."""

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
        raise RowProblem(raw.error_type or UNEXPECTED, raw.message or "no image", raw.attempts)


def ask(wanted: Wanted, draft: Draft) -> None:
    try:
        draft.prompts = make_prompts(wanted.prompt, draft.raw.fields, wanted.limits)
    except NoPrompts as error:
        raise RowProblem(error.error_type, f"{draft.shared['sample_id']}: {error}") from None
    draft.shared["num_prompts"] = len(draft.prompts)


def decode_image(wanted: Wanted, draft: Draft) -> None:
    if not usable(draft.prompts):
        return
    assert draft.raw.image is not None
    decoded = draft.decode(draft.raw.image, texts=[p.text for p in draft.prompts if p.error_type is None])
    draft.shared.update(width=decoded.width, height=decoded.height)
    if isinstance(decoded, ImageProblem):
        raise RowProblem(decoded.error_type, f"{draft.shared['sample_id']}: {decoded.message}")
    draft.shared.update(sha256=decoded.sha256)
    draft.pixel_indices = [_packed(draft, array) for array in decoded.arrays]


def _packed(draft: Draft, array: npt.NDArray[Any]) -> int:
    try:
        return draft.images.add(array)
    except TooManyPixels as error:
        message = (
            f"{draft.shared['sample_id']}: {error}; set a smaller source.chunk_rows, or a larger source.chunk_bytes"
        )
        raise RowProblem("too_much_memory", message) from None


def choose_pixels(wanted: Wanted, draft: Draft) -> None:
    before = sum(prompt.error_type is None for prompt in draft.prompts[: draft.number])
    draft.row["pixel_index"] = draft.pixel_indices[before if len(draft.pixel_indices) > 1 else 0]


def name_prompt(wanted: Wanted, draft: Draft) -> None:
    prompt = draft.prompts[draft.number]
    draft.row["prompt"] = storable(prompt.text)
    if prompt.own:
        draft.row.update(_passed(wanted.passthrough, {**draft.raw.fields, **prompt.own}))
    if prompt.error_type is not None:
        raise RowProblem(prompt.error_type, f"{draft.shared['sample_id']}: {prompt.message}")


def limit(wanted: Wanted, draft: Draft) -> None:
    prompt = draft.prompts[draft.number]
    try:
        draft.row["max_new_tokens"] = limit_of(wanted.prompt, {**draft.raw.fields, **prompt.own})
    except ValueError as error:
        raise RowProblem("bad_limit", f"{draft.shared['sample_id']}: {error}") from None


Steps = tuple[tuple[str, Callable[[Wanted, Draft], None]], ...]  # with the stage whose errors rows they make
SAMPLE_STEPS: Steps = (  # for the sample as a whole: a failure costs all of its rows, and is one
    ("read", identify),
    ("read", copy_fields),
    ("read", check_image),
    ("read", ask),
    ("preprocess", decode_image),
)
PROMPT_STEPS: Steps = (  # for each prompt: a failure costs its row
    ("read", name_prompt),
    ("read", limit),
    ("preprocess", choose_pixels),
)


def rows_of_sample(
    wanted: Wanted, shard: Shard, raw: RawSample, images: ImagePacker, decode: Decode
) -> Iterator[dict[str, Any]]:
    """Yield the sample's rows: one for each prompt, or one that says why there are none. Never raises for a sample."""
    identity = sample_id(shard.name, raw.sample.key)
    shared = {"row": raw.sample.row, "key": raw.sample.key, "sample_id": identity, "num_prompts": 1}
    draft = Draft(shard, raw, images, decode, shared)
    failed = _take(SAMPLE_STEPS, wanted, draft)
    if failed is not None:
        yield {**draft.shared, "num_prompts": 1, **failed}
        return
    for number in range(len(draft.prompts)):
        draft.number, draft.row = number, {**draft.shared, "prompt_index": number}
        failed = _take(PROMPT_STEPS, wanted, draft)
        yield draft.row if failed is None else {**draft.row, **failed}


def _take(steps: Steps, wanted: Wanted, draft: Draft) -> dict[str, Any] | None:
    """None, or the columns of an errors row, where one of the steps has failed."""
    for stage, step in steps:
        try:
            step(wanted, draft)
            continue
        except RowProblem as problem:
            failed = {"error_type": problem.error_type, "message": str(problem), "attempts": problem.attempts}
        except Exception as error:
            message = f"{draft.shared['sample_id']}: {describe_unexpected(step.__name__, error)}"
            failed = {"error_type": UNEXPECTED, "message": message}
        return {**failed, "stage": stage, "pixel_index": None, "sha256": None}
    return None


def _passed(passthrough: Passthrough, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Values as they are; pipeline.source.passthrough fits them into their columns."""
    names = (own if isinstance(own, str) else own.name for own in passthrough)
    return {SOURCE_PREFIX + name: fields.get(name) for name in names}
