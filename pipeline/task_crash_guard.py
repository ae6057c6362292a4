"""Reading and preprocessing such that a sample which ends its task is found, as rows that kill an engine are.

A task does one chunk after the other, so a chunk is alone in its process anyway. Where it has ended tasks before, it is
read in the pieces that the log asks for (pipeline.ops.crash_log), and its images are decoded in processes of their own.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pipeline.ops.crash_log import MOST_DEATHS, ORDINARY_ATTEMPTS, Attempt
from pipeline.source.plan import Sample, Shard
from pipeline.source.readers import RawSample

Read = Callable[[Sequence[Sample]], Iterator[RawSample]]


class TaskGuard:
    """For one task over some chunks of a shard. `crash_log` is a handle of a Ray actor of CrashLog, or None: then
    nothing is guarded."""

    def __init__(self, crash_log: Any, shard: Shard, chunks: Sequence[int]) -> None:
        self._log, self._shard, self._name = crash_log, shard, f"{shard.name} (preprocess)"
        deaths = [0] * len(chunks) if crash_log is None else self._ask("attempts", list(chunks))
        self._deaths: dict[int, int] = dict(zip(chunks, deaths, strict=True))

    def reads_in_one_go(self, chunk: int) -> bool:
        """Return whether the samples of this chunk are read together with those of others."""
        return self._deaths[chunk] < ORDINARY_ATTEMPTS

    def begin(self, chunk: int, num_samples: int) -> Attempt:
        if self._log is None:
            return Attempt(1, ((0, num_samples),), alone=False, condemned=())
        attempt: Attempt = self._ask("begin", chunk, num_samples)
        return attempt

    def samples(self, chunk: int, attempt: Attempt, samples: Sequence[Sample], read: Read) -> Iterator[RawSample]:
        """Yield the chunk's samples, one after the other; what is done with one is done when the next is asked for."""
        if not attempt.alone:
            yield from read(samples)
            return
        if self._deaths[chunk] >= MOST_DEATHS:
            lost = f"{self._deaths[chunk]} tasks that read and decoded this chunk have died"
            yield from (self._lost(sample, lost, attempt) for sample in samples)
            return
        condemned = frozenset(attempt.condemned)
        why = "the task dies whenever it reads or prepares this sample"
        yield from (self._lost(samples[number], why, attempt) for number in attempt.condemned)
        for first, end in attempt.pieces:
            self._ask("enter", chunk, (first, end))
            yield from read([samples[number] for number in range(first, end) if number not in condemned])
            self._ask("leave", chunk)

    def done(self, chunk: int) -> None:
        if self._log is not None:
            self._log.done.remote(self._name, chunk)

    def _lost(self, sample: Sample, why: str, attempt: Attempt) -> RawSample:
        return RawSample(
            sample, None, {}, "worker_crash", f"{self._shard.name}/{sample.key}: {why}", attempt.number - 1
        )

    def _ask(self, method: str, *arguments: Any) -> Any:
        import ray

        return ray.get(getattr(self._log, method).remote(self._name, *arguments))
