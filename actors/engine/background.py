"""Encode newcomers while the decoder runs: one batch at a time, on a thread and, on GPUs, a stream of its own.

A sequence's slot is its own from admission on, so the encoder writes where no decoding row reads. Which rows run
together depends on when the encoder is done; what a row says does not.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from actors.engine.batch import EncodeBatch
from actors.engine.executor import Executor


class BackgroundEncoder:
    """Call it from the engine's thread alone."""

    def __init__(self, executor: Executor, clock: Callable[[], float]) -> None:
        self._executor, self._clock = executor, clock
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self._stream: torch.cuda.Stream | None = None
        if executor.device.type == "cuda":
            self._stream = torch.cuda.Stream(executor.device)  # type: ignore[no-untyped-call]
        self._under_way: Future[tuple[EncodeBatch, float]] | None = None

    @property
    def busy(self) -> bool:
        """Return whether a batch is under way or waits to be collected."""
        return self._under_way is not None

    @property
    def done(self) -> bool:
        """Return whether a batch waits to be collected."""
        return self._under_way is not None and self._under_way.done()

    def start(self, batch: EncodeBatch) -> None:
        assert self._under_way is None, "one batch at a time"
        freed = None  # what still reads the slots' last sequences must end before they are written
        if self._stream is not None:
            freed = torch.cuda.Event()  # type: ignore[no-untyped-call]
            freed.record(torch.cuda.current_stream(self._executor.device))
        self._under_way = self._threads.submit(self._encode, batch, freed)

    def collect(self) -> tuple[EncodeBatch, float]:
        """Wait for the batch that is under way; return it and the seconds it took."""
        assert self._under_way is not None, "no batch is under way"
        under_way, self._under_way = self._under_way.result(), None
        return under_way

    def _encode(self, batch: EncodeBatch, freed: "torch.cuda.Event | None") -> tuple[EncodeBatch, float]:
        start_s = self._clock()
        if self._stream is None:
            self._executor.encode(batch)
        else:
            with torch.cuda.stream(self._stream):
                if freed is not None:
                    self._stream.wait_event(freed)
                self._executor.encode(batch)
        return batch, self._clock() - start_s
