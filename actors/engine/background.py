"""Encode newcomers while the decoder runs: one batch at a time, on a thread and, on GPUs, a stream of its own.

A sequence's slot is its own from admission on, so the encoder writes where no decoding row reads. Which rows run
together depends on when the encoder is done; what a row says does not.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from actors.engine.runner import Runner
from actors.engine.scheduler import EncodeBatch


class BackgroundEncoder:
    """Call it from the engine's thread alone."""

    def __init__(self, runner: Runner, clock: Callable[[], float]) -> None:
        self._runner, self._clock = runner, clock
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self._stream: torch.cuda.Stream | None = None
        if runner.device.type == "cuda":
            self._stream = torch.cuda.Stream(runner.device)  # type: ignore[no-untyped-call]
        self._batch: EncodeBatch | None = None
        self._seconds: Future[float] | None = None

    @property
    def busy(self) -> bool:
        """Whether a batch is under way or waits to be collected."""
        return self._batch is not None

    def start(self, batch: EncodeBatch) -> None:
        assert self._batch is None, "one batch at a time"
        freed = None  # what still reads the slots' last sequences must end before they are written
        if self._stream is not None:
            freed = torch.cuda.Event()  # type: ignore[no-untyped-call]
            freed.record(torch.cuda.current_stream(self._runner.device))
        self._batch, self._seconds = batch, self._threads.submit(self._encode, batch, freed)

    def collect(self, *, wait: bool) -> tuple[EncodeBatch, float] | None:
        """The batch that is done and the seconds it took; None while it is under way, unless told to wait for it."""
        if self._batch is None or self._seconds is None or not (wait or self._seconds.done()):
            return None
        batch, seconds = self._batch, self._seconds.result()
        self._batch = self._seconds = None
        return batch, seconds

    def _encode(self, batch: EncodeBatch, freed: "torch.cuda.Event | None") -> float:
        start_s = self._clock()
        if self._stream is None:
            self._runner.encode(batch)
        else:
            with torch.cuda.stream(self._stream):
                if freed is not None:
                    self._stream.wait_event(freed)
                self._runner.encode(batch)
            self._stream.synchronize()  # whoever collects the batch may read it in any stream
        return self._clock() - start_s
