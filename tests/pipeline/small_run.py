"""`pipeline.run.run` without Ray and without a model: the same books, readers, stages and driver, in this process.

The answer of a row is its shard, key and prompt, and how often the source was read for it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from conf.checkpoint_info import CheckpointInfo
from conf.image_plan import ImagePlan
from conf.resolve import resolve
from conf.schema import JobConfig
from pipeline.chunk import from_ipc
from pipeline.driver import Driver
from pipeline.output.ledger import Ledger
from pipeline.output.publish import ERRORS, RESULTS, Counts, publish_shard
from pipeline.output.resume import begin, decide
from pipeline.output.settings import content_settings
from pipeline.output.staging import rows_table, stage_chunk
from pipeline.output.storage import Storage
from pipeline.services import RunServices
from pipeline.source.readers import Reader, make_reader
from pipeline.stages import IndexShard, PrepareChunk
from pipeline.tables import Passthrough
from tests.pipeline.output.test_ledger import INFO

IMAGE_SIZE = 8


class Publisher:
    """Stands in for publication in Ray tasks: done at once, here."""

    full = False

    def __init__(self, storage: Storage, passthrough: Passthrough = ()) -> None:
        self._storage, self._passthrough = storage, passthrough
        self._done: list[Any] = []

    @property
    def busy(self) -> set[str]:
        return {publication.shard for publication in self._done}

    def start(self, shard_name: str) -> None:
        self._done.append(publish_shard(self._storage, shard_name, self._passthrough))

    def finished(self, *, wait: bool) -> list[Any]:
        done, self._done = self._done, []
        return done


class Record:
    def __init__(self) -> None:
        self.published: dict[str, Counts] = {}
        self.warnings: list[str] = []

    def add_published(self, shard_name: str, counts: Counts) -> None:
        self.published[shard_name] = counts

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def touch(self) -> None:
        pass


def small_run(
    config: JobConfig,
    reader: Reader | None = None,
    on_chunk: Callable[[str, int], None] = lambda *_: None,
    info: CheckpointInfo | None = None,
) -> Record:
    """What is left of the run; `on_chunk` is called when a chunk has been committed, and may raise.

    `info`: of the checkpoint, where the configuration has been filled in by it (jobs.caption.with_checkpoint).
    """
    reader, record = reader or make_reader(config.source), Record()
    if info is None:
        config = config.model_copy(update={"engine": resolve(INFO.model, config.engine).settings})
    settings = content_settings(config, info or INFO)
    decision = decide(Storage(config.output.path), config, settings, reader)
    begun = begin(decision, config, settings, reader)
    storage, record.warnings = begun.storage, list(begun.warnings)
    index = IndexShard(reader, storage, config.source.chunk_rows)
    services = RunServices(storage, "small", begun.passthrough)
    prepare = PrepareChunk.from_config(config, reader, ImagePlan.squeeze(IMAGE_SIZE), services)

    def run_pass(tasks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for task in tasks:
            for spans in index(pa.Table.from_pylist([task])):
                for chunk in prepare(spans):
                    (summary,) = _caption(storage, chunk)
                    yield summary
                    on_chunk(summary["shard"], summary["chunk"])

    shards = decision.shards
    ledger = Ledger.from_storage(storage, [shard.name for shard in shards])
    Driver(config, storage, ledger, shards, record, Publisher(storage), lambda _: None, lambda: None).finish(run_pass)
    return record


def _caption(storage: Storage, chunk: pa.Table) -> Iterator[dict[str, Any]]:
    (task,) = chunk.to_pylist()
    rows = [
        {**{name: value for name, value in row.items() if name not in ("pixel_index", "max_new_tokens")}}
        for row in from_ipc(task["rows"]).to_pylist()
    ]
    for row in rows:
        row["shard"] = task["shard"]
        if row["stage"] is None:
            row["text"] = f"{task['shard']}/{row['key']}: {row['prompt']}"
    stage_chunk(storage, task["shard"], task["chunk"], rows_table(rows))
    num_errors = sum(row["stage"] is not None for row in rows)
    counts = {
        "num_rows": len(rows),
        "num_errors": num_errors,
        "num_layers_run": 0,
        "num_layers_caught_up": 0,
        "num_steps": 0,
    }
    yield {**{name: task[name] for name in ("shard", "chunk", "num_chunks")}, **counts, "error_types": "{}"}


def done_rows(url: str) -> dict[tuple[str, int], str]:
    """(sample, prompt) -> answer, over all published shards."""
    rows = [row for table in _tables(url, RESULTS) for row in table.to_pylist()]
    found = {(row["sample_id"], row["prompt_index"]): row["text"] for row in rows}
    assert len(found) == len(rows), "a row is there twice"
    return found


def error_rows(url: str) -> dict[str, str]:
    """sample (or shard) -> error type, over all published shards."""
    return {row["sample_id"]: row["error_type"] for table in _tables(url, ERRORS) for row in table.to_pylist()}


def _tables(url: str, folder: str) -> list[pa.Table]:
    storage = Storage(url)
    return [storage.read_table(f"{folder}/{name}") for name in storage.names(folder)]
