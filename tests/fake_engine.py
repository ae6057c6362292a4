"""A captioning backend without a model: text is a pure function of prompt and pixels, so runs can be compared exactly.

The colour of an image's first pixel can ask for trouble: POISON_KILL ends the process, POISON_RAISE raises.
"""

import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from actors.backend import Backend
from actors.engine.request import Completion, FinishReason, Request
from actors.engine.stats import EngineStats, Meter

POISON_KILL = (255, 0, 1)
POISON_RAISE = (255, 0, 2)
NUM_LAYERS = 8


@dataclass
class FakeEngine:
    """Finishes up to `slots` requests a step, each step taking `step_s`."""

    slots: int = 8
    step_s: float = 0.0
    queue: deque[tuple[Request, float]] = field(default_factory=deque)
    meter: Meter = field(default_factory=lambda: Meter(time.perf_counter, 2))
    log: str | None = None  # a file that gets a byte for every request done, whatever happens to the process later

    def add(self, request: Request) -> None:
        if len(request.prompt_ids) > 500:
            raise ValueError(f"a prompt of {len(request.prompt_ids)} tokens is too long")
        self.queue.append((request, time.perf_counter()))

    def has_work(self) -> bool:
        return bool(self.queue)

    def step(self) -> list[Completion]:
        self.meter.begin_step(1.0)
        with self.meter.busy:
            batch = [self.queue.popleft() for _ in range(min(self.slots, len(self.queue)))]
            if self.step_s:
                time.sleep(self.step_s)
            done = [_complete(request, enqueued_s) for request, enqueued_s in batch]
        if self.log is not None:
            with open(self.log, "ab", buffering=0) as stream:
                stream.write(b"." * len(done))
        self.meter.stats.num_completed += len(done)
        return done

    def take_stats(self) -> EngineStats:
        return self.meter.take(kv_cache_bytes=0)


def _complete(request: Request, enqueued_s: float) -> Completion:
    first = tuple(int(value) for value in request.pixels_HWC[0, 0])
    if first == POISON_KILL:
        os._exit(9)
    if first == POISON_RAISE:
        raise RuntimeError("the engine chokes on this image")
    now_s = time.perf_counter()
    token_ids = expected_tokens(request.prompt_ids, request.pixels_HWC)
    layers = (*(2 + 2 * (token % 4) for token in token_ids), 2)
    confidences = (*(0.5 + token / 512 for token in token_ids), 0.99)
    return Completion(
        request_id=request.request_id,
        token_ids=token_ids,
        exit_layers=layers,
        confidences=confidences,
        finish_reason=FinishReason.EOS,
        enqueued_s=enqueued_s,
        admitted_s=enqueued_s,
        encoded_s=now_s,
        first_token_s=now_s,
        finished_s=now_s,
        encode_s=0.0,
        device_s=0.0,
    )


def expected_tokens(prompt_ids: Sequence[int], pixels_HWC: np.ndarray[Any, Any]) -> tuple[int, ...]:
    mean = int(pixels_HWC.mean())
    return tuple(f"{sum(prompt_ids) % 97} {mean}".encode())


def encode_prompt(text: str) -> tuple[int, ...]:
    return tuple(text.encode())


def decode_tokens(token_ids: Sequence[int]) -> str:
    return bytes(token_ids).decode("utf-8", errors="replace")


def token_texts(token_ids: Sequence[int]) -> list[str]:
    return [chr(token) for token in token_ids]


def make_backend(
    image_size: int, slots: int = 8, step_s: float = 0.0, pid_folder: str | None = None, log: str | None = None
) -> Backend:
    if pid_folder is not None:
        (Path(pid_folder) / str(os.getpid())).touch()
    return Backend(
        partial(FakeEngine, slots, step_s, log=log), encode_prompt, decode_tokens, token_texts, image_size, "fake"
    )
