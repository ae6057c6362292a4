"""Rows and indexes by the handful, for tests of the bookkeeping."""

from collections.abc import Iterable
from typing import Any

from pipeline.output.staging import rows_table, save_index, stage_chunk
from pipeline.output.storage import Storage
from pipeline.source.plan import ByteRange, Part, Sample
from pipeline.source.shard_index import ShardIndex


def index_of(num_samples: int, chunk_rows: int) -> ShardIndex:
    samples = tuple(Sample(row, f"k{row}", (Part("jpg", ByteRange(512 * row, 10)),)) for row in range(num_samples))
    return ShardIndex(samples, (), chunk_rows)


def good_row(row: int, prompt_index: int = 0, num_prompts: int = 1, shard: str = "s") -> dict[str, Any]:
    return {
        "sample_id": f"{shard}/k{row}",
        "shard": shard,
        "key": f"k{row}",
        "row": row,
        "prompt_index": prompt_index,
        "num_prompts": num_prompts,
        "text": f"text {row}.{prompt_index}",
    }


def bad_row(row: int, shard: str = "s") -> dict[str, Any]:
    base = {**good_row(row, shard=shard), "prompt_index": None, "text": None}
    return {**base, "stage": "read", "error_type": "broken", "message": "why", "attempts": 1}


def stage(
    storage: Storage, index: ShardIndex, chunk_index: int, rows: Iterable[dict[str, Any]], shard: str = "s"
) -> None:
    save_index(storage, shard, index)
    stage_chunk(storage, shard, chunk_index, rows_table(list(rows)))
