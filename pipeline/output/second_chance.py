"""Failed rows tried again: a published shard is opened once more, with everything staged that need not be done again.

What is tried again is whole chunks, those that hold a row that failed; the rows of all others are put back into staging
as they were published. Until the shard is published again, its first publication stays where it is; a shard that can
no longer be listed in full is not opened at all.

A second chance that was begun is brought to its end by whatever run comes next, with what it had done so far: shards
carry a mark while they are open again, and a note in the output says that all of them were opened.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from conf.schema import RetryErrors
from conf.source import RetryConfig
from pipeline.output.output import Output
from pipeline.output.publish import ERRORS, published_name, read_published, why_left
from pipeline.output.staging import mark_reopened, remove_staging, rows_table, save_index, stage_chunk
from pipeline.output.storage import Storage
from pipeline.source.plan import MISSING_SHARD, Shard
from pipeline.source.readers import Reader
from pipeline.source.retrying import USUAL_PATIENCE, SharedPatience
from pipeline.source.shard_index import ShardIndex
from pipeline.tables import Passthrough

_NOTE = "_state/retry.json"
_THREADS = 8
# What another day may mend: storage and networks that were down, objects that arrive late, workers that died.
_TRANSIENT = frozenset(
    {
        MISSING_SHARD,
        "storage_error",
        "unreadable_file",
        "unreadable_shard",
        "unreadable_metadata",
        "fetch_failed",
        "missing_file",
        "not_allowed",
        "worker_crash",
        "decoder_crash",
        "decoder_hang",
    }
)


def is_transient(error_type: str) -> bool:
    """Return whether `output.retry_errors=transient` tries such a row again."""
    return error_type in _TRANSIENT


def shards_to_retry(storage: Storage, shards: Sequence[Shard], which: RetryErrors) -> list[Shard]:
    """The published shards to be opened again because of rows that failed; those open already are not among them."""
    if which is RetryErrors.NONE or _noted(storage) == which.value:
        return []
    output = Output(storage)
    done = output.published() - output.reopened()
    counts = output.counts(shard.name for shard in shards if shard.name in done)
    failed = [shard for shard in shards if shard.name in counts and counts[shard.name].num_failed]

    def has_some(shard: Shard) -> bool:
        rows = storage.read_table(published_name(ERRORS, shard.name)).to_pylist()
        return any(_again(row, which) for row in rows)

    with ThreadPoolExecutor(_THREADS) as pool:
        return [shard for shard, some in zip(failed, pool.map(has_some, failed), strict=True) if some]


def open_again(
    storage: Storage,
    reader: Reader,
    shards: Sequence[Shard],
    which: RetryErrors,
    chunk_rows: int,
    passthrough: Passthrough,
    patience: RetryConfig = USUAL_PATIENCE,
) -> list[str]:
    """Open the shards again. From then on, until `close`, no other shard is opened for this reason. Needs the lease.

    An outage of their storage is waited out once for all of them. Gives why some of them stay as they
    are, a sentence each.
    """
    together = SharedPatience(patience)

    def open_one(shard: Shard) -> str | None:
        left, since_s = together.left(), together.clock()
        if left is None:
            return f"{shard.name} stays as it was published: its storage has been away for {together.away_s:.0f} s"
        contents = reader.with_patience(left).index(shard)
        if any(problem.passing for problem in contents.problems):
            together.failed(since_s)
        else:
            together.succeeded()
        return reopen(storage, shard, ShardIndex.of(contents, chunk_rows), which, passthrough)

    with ThreadPoolExecutor(_THREADS) as pool:
        left = [why for why in pool.map(open_one, shards) if why is not None]
    if which is not RetryErrors.NONE:
        storage.write_json(_NOTE, {"retry_errors": which.value})
    return left


def close(storage: Storage) -> None:
    """Every shard is published: the next run that is asked to retry begins anew."""
    storage.remove([_NOTE])


def _noted(storage: Storage) -> str | None:
    note = storage.read_json(_NOTE)
    return None if note is None else str(note.get("retry_errors"))


def reopen(
    storage: Storage, shard: Shard, index: ShardIndex, which: RetryErrors, passthrough: Passthrough
) -> str | None:
    """Stage the chunks of a new listing in which nothing is to be tried again; or why the shard stays as it is."""
    before = read_published(storage, shard.name)
    if (left := why_left(shard.name, before, index)) is not None:
        return left
    remove_staging(storage, shard.name)
    errors = before.errors.to_pylist()
    failed = {row["key"] for row in errors if _again(row, which)}
    by_key: dict[str, list[dict[str, Any]]] = {}
    for row in [*before.results.to_pylist(), *errors]:
        by_key.setdefault(row["key"], []).append(row)
    for chunk_index in range(index.num_chunks):
        chunk = index.chunk_samples(chunk_index)
        if not chunk or any(sample.key in failed or sample.key not in by_key for sample in chunk):
            continue
        rows = [
            {**row, "row": sample.row, "num_prompts": len(by_key[sample.key])}
            for sample in chunk
            for row in by_key[sample.key]
        ]
        stage_chunk(storage, shard.name, chunk_index, rows_table(rows, passthrough))
    save_index(storage, shard.name, index)
    mark_reopened(storage, shard.name)  # last: without it nothing that is staged counts
    return None


def _again(row: dict[str, Any], which: RetryErrors) -> bool:
    return which is RetryErrors.ALL or is_transient(row["error_type"])
