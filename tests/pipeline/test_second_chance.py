"""Failed rows are tried again, everything else of their shard is kept as it was published."""

from pathlib import Path

import pytest

from conf.schema import RetryErrors
from pipeline.ledger import Ledger
from pipeline.plan import Shard, ShardIndex
from pipeline.readers.webdataset import WebDatasetReader
from pipeline.second_chance import reopen, shards_to_retry
from pipeline.sink import RESULTS, publish_shard, rows_table, save_index, stage_chunk
from pipeline.storage import Storage
from tests.pipeline.helpers import bad_row, good_row
from tests.shards import write_tar


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    path = write_tar(tmp_path / "s.tar", [(f"k{row}.jpg", b"x") for row in range(8)])
    return Shard("s", str(path), path.stat().st_size)


@pytest.fixture
def storage(tmp_path: Path, shard: Shard) -> Storage:
    """Published: row 2 failed for good, row 5 for a reason that may pass, rows 0 and 7 have two prompts."""
    storage = Storage(f"{tmp_path}/out")
    index = ShardIndex(WebDatasetReader((shard.url,)).index(shard).samples, (), 8)
    rows = [good_row(row) for row in (1, 3, 4, 6)] + [good_row(row, n, 2) for row in (0, 7) for n in range(2)]
    rows += [bad_row(2), {**bad_row(5), "error_type": "fetch_failed"}]
    save_index(storage, "s", index)
    stage_chunk(storage, "s", 0, rows_table(rows))
    assert publish_shard(storage, "s").counts is not None
    return storage


@pytest.mark.parametrize(
    ("which", "staged", "done_again"),
    [(RetryErrors.TRANSIENT, {0, 1, 3}, (4, 5)), (RetryErrors.ALL, {0, 3}, (2, 3, 4, 5))],
)
def test_only_the_chunks_that_failed_are_done_again(
    storage: Storage, shard: Shard, which: RetryErrors, staged: set[int], done_again: tuple[int, ...]
) -> None:
    before = storage.read_table(f"{RESULTS}/s.parquet")
    assert shards_to_retry(storage, [shard, Shard("new", "x", 1)], which) == [shard]
    reopen(storage, WebDatasetReader((shard.url,)), shard, which, 2, ())
    ledger = Ledger.from_storage(storage, ["s"])
    assert (ledger.open["s"].staged, ledger.open["s"].num_chunks) == (staged, 4)
    assert storage.read_table(f"{RESULTS}/s.parquet") == before, "what is published stays until there is better"
    for chunk_index in {0, 1, 2, 3} - staged:
        rows = [{**good_row(row), "text": "new"} for row in done_again if row // 2 == chunk_index]
        stage_chunk(storage, "s", chunk_index, rows_table(rows))
    counts = publish_shard(storage, "s").counts
    assert counts is not None
    texts = {(r["key"], r["prompt_index"]): r["text"] for r in storage.read_table(f"{RESULTS}/s.parquet").to_pylist()}
    for row in before.to_pylist():
        again = int(row["key"][1:]) in done_again
        assert texts[row["key"], row["prompt_index"]] == ("new" if again else row["text"])
    assert len(texts) == len(before) + (1 if which is RetryErrors.TRANSIENT else 2)


def test_nothing_to_retry(storage: Storage, shard: Shard) -> None:
    assert shards_to_retry(storage, [shard], RetryErrors.NONE) == []
    assert Ledger.from_storage(storage, ["s"]).finished
