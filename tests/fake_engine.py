"""The null engine with answers that are a pure function of prompt and pixels, so that runs can be compared exactly."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from actors.backend import Backend
from actors.engine.request import Request
from jobs.bench.null_engine import POISON_KILL, POISON_RAISE, Answer, NullEngine, make_null_backend
from jobs.bench.null_engine import decode as decode_tokens
from jobs.bench.null_engine import encode as encode_prompt
from jobs.bench.null_engine import pieces as token_texts

__all__ = [
    "NUM_LAYERS",
    "POISON_KILL",
    "POISON_RAISE",
    "FakeEngine",
    "decode_tokens",
    "encode_prompt",
    "expected_tokens",
    "make_backend",
    "token_texts",
]

NUM_LAYERS = 8


def _answer(request: Request) -> Answer:
    token_ids = expected_tokens(request.prompt_ids, request.pixels_HWC)
    layers = (*(2 + 2 * (token % 4) for token in token_ids), 2)
    confidences = (*(0.5 + token / 512 for token in token_ids), 0.99)
    return Answer(token_ids, layers, confidences)


class FakeEngine(NullEngine):
    def __init__(self, slots: int = 8, step_s: float = 0.0, log: str | None = None) -> None:
        super().__init__(step_s, slots, _answer, log)


def expected_tokens(prompt_ids: Sequence[int], pixels_HWC: np.ndarray[Any, Any]) -> tuple[int, ...]:
    mean = int(pixels_HWC.mean())
    return tuple(f"{sum(prompt_ids) % 97} {mean}".encode())


def make_backend(image_size: int, slots: int = 8, pid_folder: str | None = None, **engine: Any) -> Backend:
    return make_null_backend(image_size, pid_folder=pid_folder, slots=slots, answer=_answer, **engine)
