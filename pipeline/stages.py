"""The two CPU stages as Ray Data sees them: list a shard, then read and preprocess one chunk of it.

Every table that travels has one row per chunk; what a chunk holds is packed into binary columns, so that Ray moves and
retries whole chunks and never splits or merges them.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa

from conf.image_plan import ImagePlan
from conf.schema import JobConfig
from conf.source import PromptConfig, RetryConfig, SourceConfig
from pipeline.chunk import Chunk, from_ipc, to_ipc
from pipeline.images.decode import DEFAULT_LIMITS, ImageProblem, Pixels, image_to_pixels
from pipeline.images.decode_isolated import image_to_pixels_isolated, image_to_pixels_or_die
from pipeline.images.packed import ImagePacker
from pipeline.ops.crash_log import Attempt
from pipeline.ops.slow import noted_if_slow
from pipeline.output.staging import load_index, save_index
from pipeline.output.storage import Storage
from pipeline.packing import Blocks
from pipeline.sample_rows import Decode, rows_of_sample
from pipeline.services import RunServices
from pipeline.source.passthrough import prepared_table
from pipeline.source.plan import MISSING_SHARD, UNREADABLE_SHARD, Sample, Shard
from pipeline.source.prompts import USUAL_LIMITS, PromptLimits
from pipeline.source.readers import RawSample, Reader, ReadFailure, read_patiently
from pipeline.source.retrying import USUAL_PATIENCE
from pipeline.source.shard_index import ShardIndex
from pipeline.source.versions import differ, differ_in_content
from pipeline.tables import Passthrough
from pipeline.task_crash_guard import TaskGuard
from pipeline.unexpected_errors import UNEXPECTED, describe_unexpected

_BLOCK_ROWS = 4096
_MOST_SURPRISES = 100  # of one task: each has the rest of its samples read from storage again

TASK_SCHEMA = pa.schema(  # one shard, or some of its chunks, still to be done
    [("shard", pa.string()), ("chunks", pa.list_(pa.int32())), ("num_chunks", pa.int32()), ("index", pa.large_binary())]
)


def most_chunk_bytes(chunk_bytes: int) -> int:
    """Return the bytes of pixels that a chunk may have in the end: a sample may bring many prompts that are drawn."""
    return 8 * chunk_bytes


def shard_task(shard: Shard, staged: Sequence[int]) -> dict[str, Any]:
    """Return a shard as an input row; `staged` are the chunks that need no work."""
    return {"shard": shard.to_json(), "staged": json.dumps(sorted(staged))}


@dataclass(frozen=True)
class IndexShard:
    """Shard -> its unfinished chunks. The first listing is saved, so a resumed run cuts the shard the same way."""

    reader: Reader
    storage: Storage
    chunk_rows: int

    def __call__(self, tasks: pa.Table) -> Iterator[pa.Table]:
        for task in tasks.to_pylist():
            shard = Shard.from_json(task["shard"])
            staged = set(json.loads(task["staged"]))
            index = load_index(self.storage, shard.name)
            if index is None:
                with noted_if_slow(f"listing {shard.url}"):
                    index = ShardIndex.of(self.reader.index(shard), self.chunk_rows, shard.version)
                save_index(self.storage, shard.name, index)
            elif not shard.file_bytes and differ(index.version, shard.version):
                shard = self._compared(shard, index)
            todo = [chunk_index for chunk_index in range(index.num_chunks) if chunk_index not in staged]
            if not todo:
                todo = [index.num_chunks - 1]  # doing one again is how the driver learns the number of chunks
            whole = index.to_table()
            for span in self.reader.spans(shard, index, todo):
                pieces = [whole.slice(c * index.chunk_rows, index.chunk_rows) for c in span]
                row = {
                    "shard": replace(shard, members=(), beside=()).to_json(),
                    "chunks": span,
                    "num_chunks": index.num_chunks,
                    "index": to_ipc(pa.concat_tables(pieces)),
                }
                yield pa.Table.from_pylist([row], schema=TASK_SCHEMA)

    def _compared(self, shard: Shard, index: ShardIndex) -> Shard:
        """The shard as an earlier run listed it, written again since: a copy has the same things in the same places. Of
        any other file the rows that are left will be said to have changed."""
        again = self.reader.index(shard)
        unreadable = any(problem.error_type in (UNREADABLE_SHARD, MISSING_SHARD) for problem in again.problems)
        same = not differ_in_content(index.version, shard.version) and again.samples == index.samples
        return shard if same or unreadable else replace(shard, version=index.version)


@dataclass(frozen=True)
class PrepareChunk:
    """Chunk -> RGB pixels and prompts. Whatever is wrong with a sample becomes an error row of its chunk.

    `crash_log` is a handle of a Ray actor of CrashLog: an image that takes too long ends the task, and a chunk that has
    ended its task twice is read piece by piece, its images decoded in processes of their own. Without one every image
    is decoded here, and may take as long as it likes.
    """

    reader: Reader
    prompt: PromptConfig
    id_column: str | None
    passthrough: Passthrough
    plan: ImagePlan
    max_pixels: int
    crash_log: Any = None
    patience: RetryConfig = USUAL_PATIENCE
    decode_timeout_s: float = 60.0
    max_decode_bytes: int = DEFAULT_LIMITS.max_decode_bytes
    limits: PromptLimits = USUAL_LIMITS
    most_chunk_bytes: int = most_chunk_bytes(SourceConfig.model_fields["chunk_bytes"].default)

    @classmethod
    def from_config(
        cls,
        config: JobConfig,
        reader: Reader,
        plan: ImagePlan,
        services: RunServices,
        max_prompt_tokens: int = 0,
    ) -> "PrepareChunk":
        source = config.source
        return cls(
            reader,
            source.prompt,
            source.id_column,
            services.passthrough,
            plan,
            config.preprocess.max_pixels,
            services.crash_log,
            source.retry,
            config.preprocess.decode_timeout_s,
            config.preprocess.max_decode_bytes,
            PromptLimits.of(config, max_prompt_tokens),
            most_chunk_bytes(source.chunk_bytes),
        )

    def __call__(self, tasks: pa.Table) -> Iterator[pa.Table]:
        for task in tasks.to_pylist():
            shard = Shard.from_json(task["shard"])
            index = ShardIndex.from_table(from_ipc(task["index"]))  # the samples of this task's chunks only
            samples_of: dict[int, list[Sample]] = {chunk_index: [] for chunk_index in task["chunks"]}
            for sample in index.samples:
                samples_of[sample.row // index.chunk_rows].append(sample)
            guard = TaskGuard(self.crash_log, shard, task["chunks"])
            in_one_go, read_anew = self._in_one_go(shard, samples_of, guard), partial(self._read, shard)
            for chunk_index, samples in list(samples_of.items()):
                del samples_of[chunk_index]
                rows = Blocks(partial(prepared_table, passthrough=self.passthrough), _BLOCK_ROWS)
                images = ImagePacker(len(samples) * self.plan.most_bytes, self.most_chunk_bytes)
                attempt = guard.begin(chunk_index, len(samples))
                decode = self._decoder(attempt)
                read = read_anew if attempt.alone else partial(_take, in_one_go)
                if attempt.alone and guard.reads_in_one_go(chunk_index):  # another task has died at it meanwhile
                    in_one_go = self._in_one_go(shard, samples_of, guard)
                with noted_if_slow(f"reading and preprocessing chunk {chunk_index} of {shard.name}"):
                    for raw in guard.samples(chunk_index, attempt, samples, read):
                        for row in rows_of_sample(self, shard, raw, images, decode):
                            rows.add(row)
                guard.done(chunk_index)
                table = rows.table(sort=attempt.alone)
                yield Chunk(shard.name, chunk_index, task["num_chunks"], table, images.packed()).to_table()

    def _in_one_go(
        self, shard: Shard, samples_of: Mapping[int, Sequence[Sample]], guard: TaskGuard
    ) -> Iterator[RawSample]:
        together = (samples for chunk, samples in samples_of.items() if guard.reads_in_one_go(chunk))
        return self._read(shard, list(itertools.chain.from_iterable(together)))

    def _read(self, shard: Shard, samples: Sequence[Sample]) -> Iterator[RawSample]:
        """Each sample once. Those that storage does not give, however patiently it is asked, are errors; one at which
        the reader raises anything else is one, and reading goes on behind it."""
        done = surprises = 0
        while done < len(samples):
            try:
                for raw in read_patiently(self.reader, shard, samples[done:], self.patience):
                    done += 1
                    yield raw
            except ReadFailure as failure:
                lost, error_type, attempts = samples[done:], failure.error_type, failure.attempts
                said = str(failure)
            except Exception as error:
                surprises += 1
                lost = samples[done : done + 1] if surprises <= _MOST_SURPRISES else samples[done:]
                error_type, attempts, said = UNEXPECTED, 1, describe_unexpected("reading", error)
            else:
                return
            for sample in lost:
                done += 1
                yield RawSample(sample, None, {}, error_type, f"{shard.name}/{sample.key}: {said}", attempts)

    def _decoder(self, attempt: Attempt) -> Decode:
        decode: Callable[..., Pixels | ImageProblem] = image_to_pixels
        if self.crash_log is not None:
            careful = image_to_pixels_isolated if attempt.alone else image_to_pixels_or_die
            decode = partial(careful, limit_s=self.decode_timeout_s)
        return partial(decode, plan=self.plan, max_pixels=self.max_pixels, max_decode_bytes=self.max_decode_bytes)


def _take(raw_samples: Iterator[RawSample], samples: Sequence[Sample]) -> Iterator[RawSample]:
    """Return the next ones, which are those of these samples."""
    return itertools.islice(raw_samples, len(samples))
