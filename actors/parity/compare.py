"""The two sides beside each other, picture by picture."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from actors.engine.request import Request
from actors.parity.answer import Answer
from actors.parity.library import Library
from actors.parity.ours import Ours, Problem
from actors.parity.pictures import as_the_pipeline_opens, as_users_open, opened_otherwise
from conf.model import ModelConfig
from pipeline.images.decode import ImageProblem


@dataclass(frozen=True)
class Asked:
    """A picture file and what is asked of it, or why it cannot be."""

    name: str
    data: bytes
    prompt: str
    problem: str | None = None


class Verdict(str, Enum):
    EQUAL = "equal"
    OPENED_OTHERWISE = "opened otherwise"  # equal once the library is given the picture as the pipeline opens it
    DIFFERENT = "different"
    NOT_COMPARED = "not compared"  # one side does not take it


@dataclass(frozen=True)
class FirstDifference:
    """`margin`: by how much the library prefers its own token there, in natural-log probability."""

    position: int
    theirs: str
    ours: str
    margin: float


@dataclass(frozen=True)
class Comparison:
    """One picture. `pixel_difference` is the largest, in steps of 8 bits; None where the shapes differ or none is read.

    `notes`: what the pipeline does otherwise on purpose, shapes that differ, or why nothing could be compared.
    """

    name: str
    verdict: Verdict
    notes: tuple[str, ...] = ()
    input_difference: float | None = None
    pixel_difference: float | None = None
    first: FirstDifference | None = None
    theirs: str = ""
    ours: str = ""

    @property
    def compared(self) -> bool:
        return self.verdict is not Verdict.NOT_COMPARED

    @property
    def agrees(self) -> bool:
        """Whether nothing speaks against the conversion."""
        return self.verdict is not Verdict.DIFFERENT

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict.value}


def compare(library: Library, ours: Ours, work: Sequence[Asked], *, our_pixels: bool = False) -> Iterator[Comparison]:
    """Yield a comparison for each, in order; `our_pixels` gives the library every picture as the pipeline opens it."""
    requests: dict[int, Request] = {}
    problems: dict[int, str] = {}
    for number, asked in enumerate(work):
        if asked.problem is not None:
            problems[number] = asked.problem
            continue
        try:
            requests[number] = ours.request(number, asked.data, asked.prompt)
        except Problem as problem:
            problems[number] = str(problem)
    answers = dict(zip(requests, ours.answers(list(requests.values())), strict=True))
    for number, asked in enumerate(work):
        if number in problems:
            yield Comparison(asked.name, Verdict.NOT_COMPARED, (f"here: {problems[number]}",))
        else:
            yield _compared(library, ours, asked, answers[number], our_pixels)


def _compared(library: Library, ours: Ours, asked: Asked, mine: Answer, our_pixels: bool) -> Comparison:
    notes = () if our_pixels else opened_otherwise(asked.data)
    try:
        image = _upright(asked) if our_pixels else as_users_open(asked.data)
        found = _beside(library, ours, asked, image, mine, notes)
        if found.verdict is Verdict.DIFFERENT and notes:
            again = _beside(library, ours, asked, _upright(asked), mine, notes)
            if again.verdict is Verdict.EQUAL:
                return Comparison(**{**vars(again), "verdict": Verdict.OPENED_OTHERWISE})
    except Exception as error:  # the library, or Pillow for it, raises many kinds
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Comparison(asked.name, Verdict.NOT_COMPARED, (*notes, f"there: {reason}"))
    return found


def _upright(asked: Asked) -> Image.Image:
    image = as_the_pipeline_opens(asked.data)
    assert not isinstance(image, ImageProblem)  # it has become a request
    return image


def _beside(
    library: Library, ours: Ours, asked: Asked, image: Image.Image, mine: Answer, notes: tuple[str, ...]
) -> Comparison:
    theirs = without_end(library.answer(image, asked.prompt), ours.config.end_ids)
    first = first_difference(theirs, mine, ours)
    difference = shape_note = None
    if theirs.inputs is not None and mine.inputs is not None:
        difference, shape_note = input_difference(theirs.inputs, mine.inputs)
    scale = _steps_of_8_bits(ours.config, theirs.inputs, image)
    return Comparison(
        name=asked.name,
        verdict=Verdict.EQUAL if first is None else Verdict.DIFFERENT,
        notes=notes if shape_note is None else (*notes, shape_note),
        input_difference=None if difference is None else float(difference.max()),
        pixel_difference=None if difference is None else float((difference * scale).max()),
        first=first,
        theirs=ours.backend.decode_tokens(theirs.token_ids),
        ours=ours.backend.decode_tokens(mine.token_ids),
    )


def without_end(answer: Answer, end_ids: Sequence[int]) -> Answer:
    """Return an answer up to its end token, as the engine gives it."""
    ids = answer.token_ids
    end = next((place for place, token_id in enumerate(ids) if token_id in end_ids), len(ids))
    return Answer(ids[:end], answer.inputs, answer.log_probs_TV)


def first_difference(theirs: Answer, mine: Answer, ours: Ours) -> FirstDifference | None:
    """Return where the two part; the end token, where one of them is at its end."""
    if theirs.token_ids == mine.token_ids:
        return None
    assert theirs.log_probs_TV is not None
    pairs = zip(theirs.token_ids, mine.token_ids, strict=False)
    shorter = min(len(theirs.token_ids), len(mine.token_ids))
    position = next((i for i, (a, b) in enumerate(pairs) if a != b), shorter)
    ids = [
        answer.token_ids[position] if position < len(answer.token_ids) else ours.config.eos_id
        for answer in (theirs, mine)
    ]
    step = theirs.log_probs_TV[min(position, len(theirs.log_probs_TV) - 1)]
    texts = [ours.token_text(token_id) for token_id in ids]
    return FirstDifference(position, *texts, float(step[ids[0]] - step[ids[1]]))


def input_difference(theirs: Tensor, mine: Tensor) -> tuple[Tensor | None, str | None]:
    """Return the absolute differences, or what is different about the shapes."""
    if theirs.shape != mine.shape:
        return None, f"{_shape(theirs)} there, {_shape(mine)} here"
    return (theirs.float() - mine.float()).abs(), None


def _shape(inputs: Tensor) -> str:
    if inputs.dim() == 2:  # patches, with row and column in front
        return f"a grid of {int(inputs[:, 0].max())} x {int(inputs[:, 1].max())} patches"
    return f"{inputs.shape[1]} x {inputs.shape[2]} pixels"


def _steps_of_8_bits(config: ModelConfig, inputs: Tensor | None, image: Image.Image) -> Tensor | float:
    """Return what makes steps of 8 bits of differences between inputs: the deviation that they were divided by.

    Patches are divided by that of their own picture, which the picture before its resize has nearly too.
    """
    if inputs is None or inputs.dim() == 2:
        return float(np.asarray(image).std()) or 1.0
    return inputs.new_tensor(config.pixel_std).view(3, 1, 1) * 255
