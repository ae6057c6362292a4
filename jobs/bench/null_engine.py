"""An engine without a model, for measuring and breaking the rest: it answers at once with the image's mean colour.

The colour of an image's first pixel can ask for trouble: POISON_KILL ends the process, POISON_RAISE raises.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from conf.checkpoint_info import CheckpointInfo
from conf.model import ModelConfig

if TYPE_CHECKING:
    from actors.backend import Backend
    from actors.engine.request import Completion, Request
    from actors.engine.stats import EngineStats

POISON_KILL, POISON_RAISE = (255, 0, 1), (255, 0, 2)
LONGEST_PROMPT = 500  # bytes


def null_info(image_size: int) -> CheckpointInfo:
    """Return what a checkpoint would say, had the engine one; two layers, an exit after each."""
    width = {"d_model": 1, "num_heads": 1, "d_ff": 1}
    model = {
        "name": "null", "image_size": image_size, "exits": (1, 2), "thresholds": (0.5,),
        "encoder": {"num_layers": 1, **width},
        "decoder": {"num_layers": 2, "d_head": 1, "d_cross": 1, "vocab_size": 256, "max_positions": 64, **width},
    }  # fmt: skip
    return CheckpointInfo(ModelConfig.model_validate(model), "null", "null")


def null_text(pixels_HWC: np.ndarray[Any, Any]) -> str:
    """Return what the engine says of an image: the mean of every eighth pixel, which costs next to nothing."""
    return f"mean {int(pixels_HWC[::8, ::8].mean())}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the engine says; one exit layer and confidence more than tokens, for the end token."""

    token_ids: tuple[int, ...]
    exit_layers: tuple[int, ...]
    confidences: tuple[float, ...]


def null_answer(request: "Request") -> Answer:
    token_ids = tuple(null_text(request.pixels_HWC).encode())
    steps = len(token_ids) + 1
    return Answer(token_ids, (1,) * steps, (1.0,) * steps)


class NullEngine:
    """Up to `slots` requests are done in each step, which takes `step_s`.

    `log`: a file that gets a byte for every request done, whatever happens to the process later.
    """

    def __init__(
        self, step_s: float = 0.0, slots: int = 64, answer: "Callable[[Request], Answer]" = null_answer,
        log: str | None = None,
    ) -> None:  # fmt: skip
        from actors.engine.stats import Meter

        self._step_s, self.slots, self._answer, self._log = step_s, slots, answer, log
        self.queue: deque[tuple[Request, float]] = deque()
        self._meter = Meter(time.perf_counter, num_segments=2)

    def add(self, request: "Request") -> None:
        if len(request.prompt_ids) > LONGEST_PROMPT:
            raise ValueError(f"a prompt of {len(request.prompt_ids)} tokens is too long")
        self.queue.append((request, time.perf_counter()))

    def has_work(self) -> bool:
        return bool(self.queue)

    def step(self) -> "list[Completion]":
        self._meter.begin_step(share_held=1.0)
        with self._meter.busy:
            time.sleep(self._step_s)
            batch = [self.queue.popleft() for _ in range(min(self.slots, len(self.queue)))]
            done = [_complete(request, self._answer, enqueued_s) for request, enqueued_s in batch]
        if self._log is not None:
            with open(self._log, "ab", buffering=0) as stream:
                stream.write(b"." * len(done))
        self._meter.stats.num_completed += len(done)
        return done

    def take_stats(self) -> "EngineStats":
        return self._meter.take(kv_cache_bytes=0)


def _complete(request: "Request", answer: "Callable[[Request], Answer]", enqueued_s: float) -> "Completion":
    from actors.engine.request import Completion, FinishReason

    first = tuple(int(value) for value in request.pixels_HWC[0, 0])
    if first == POISON_KILL:
        os._exit(9)
    if first == POISON_RAISE:
        raise RuntimeError("the engine chokes on this image")
    said, now_s = answer(request), time.perf_counter()
    return Completion(
        request_id=request.request_id,
        token_ids=said.token_ids,
        exit_layers=said.exit_layers,
        confidences=said.confidences,
        finish_reason=FinishReason.EOS,
        enqueued_s=enqueued_s,
        admitted_s=enqueued_s,
        encoded_s=now_s,
        first_token_s=now_s,
        finished_s=now_s,
        encode_s=0.0,
        device_s=0.0,
    )


def make_null_backend(image_size: int, *, pid_folder: str | None = None, **engine: Any) -> "Backend":
    """`pid_folder`: where each actor leaves a file named after its process. `engine`: of NullEngine."""
    from actors.backend import Backend
    from conf.image_plan import ImagePlan

    if pid_folder is not None:
        (Path(pid_folder) / str(os.getpid())).touch()
    return Backend(partial(NullEngine, **engine), encode, decode, pieces, ImagePlan.squeeze(image_size), "null")


def encode(text: str) -> tuple[int, ...]:
    return tuple(text.encode())


def decode(token_ids: Sequence[int]) -> str:
    return bytes(token_ids).decode("utf-8", errors="replace")


def pieces(token_ids: Sequence[int]) -> list[str]:
    return [chr(token) for token in token_ids]
