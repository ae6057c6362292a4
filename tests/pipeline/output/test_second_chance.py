"""Failed rows are tried again, everything else of their shard is kept as it was published."""

import itertools
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conf.schema import RetryErrors
from conf.source import RetryConfig
from pipeline.output import second_chance
from pipeline.output.ledger import Ledger
from pipeline.output.publish import ERRORS, RESULTS, publish_shard
from pipeline.output.second_chance import open_again, shards_to_retry
from pipeline.output.staging import rows_table, save_index, stage_chunk
from pipeline.output.storage import Storage
from pipeline.source.plan import Contents, Shard
from pipeline.source.readers.reader import unreadable
from pipeline.source.readers.webdataset import WebDatasetReader
from pipeline.source.retrying import USUAL_PATIENCE, Exhausted
from pipeline.source.shard_index import ShardIndex
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
    open_again(storage, WebDatasetReader((shard.url,)), [shard], which, 2, ())
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


def test_an_answer_survives_an_error_of_its_second_try(storage: Storage, shard: Shard) -> None:
    """Row 4 fails anew as a row, row 7 as a whole, one prompt of row 0 fails; rows 2 and 5 fail for another reason."""
    before = {(r["key"], r["prompt_index"]): r["text"] for r in storage.read_table(f"{RESULTS}/s.parquet").to_pylist()}
    open_again(storage, WebDatasetReader((shard.url,)), [shard], RetryErrors.ALL, 8, ())
    away = {"error_type": "storage_error", "message": "503"}
    rows = [{**good_row(row), "text": "new"} for row in (1, 3, 6)]
    rows += [{**bad_row(row), **away} for row in (2, 5)]
    rows += [{**bad_row(4), **away}, {**bad_row(7), **away, "num_prompts": 1}]
    rows += [
        {**good_row(0, 0, 2), "text": "new"},
        {**bad_row(0), "prompt_index": 1, "num_prompts": 2, "stage": "engine"},
    ]
    stage_chunk(storage, "s", 0, rows_table(rows))
    counts = publish_shard(storage, "s").counts
    assert counts is not None
    assert (counts.num_ok, counts.num_errors) == (len(before), 2)
    results = storage.read_table(f"{RESULTS}/s.parquet").to_pylist()
    after = {(r["key"], r["prompt_index"]): r["text"] for r in results}
    assert after.keys() == before.keys()
    assert len(results) == len(after)
    for (key, prompt_index), text in after.items():
        new = key in ("k1", "k3", "k6") or (key, prompt_index) == ("k0", 0)
        assert text == ("new" if new else before[key, prompt_index])
    errors = storage.read_table(f"{ERRORS}/s.parquet").to_pylist()
    assert [(row["key"], row["error_type"]) for row in errors] == [("k2", "storage_error"), ("k5", "storage_error")]
    assert [row["key"] for row in results] == sorted(row["key"] for row in results), "not in input order"


def test_a_shard_that_cannot_be_listed_stays_as_it_is_and_says_so(storage: Storage, shard: Shard) -> None:
    before = {name: storage.read(name) for name in storage.walk("")}
    Path(shard.url).unlink()
    (why,) = open_again(storage, WebDatasetReader((shard.url,)), [shard], RetryErrors.ALL, 8, ())
    assert "8 of its samples are not there" in why
    assert "FileNotFoundError" in why
    second_chance.close(storage)
    assert {name: storage.read(name) for name in storage.walk("")} == before


def test_a_shard_that_is_cut_while_it_is_tried_again_stays_as_it_is(storage: Storage, shard: Shard) -> None:
    """The listing of the second try was lost, and the one that is made anew does not name all that is published."""
    before = {name: storage.read(name) for name in storage.walk("")}
    samples = WebDatasetReader((shard.url,)).index(shard).samples[:3]
    save_index(storage, "s", ShardIndex(tuple(samples), (), 8))
    stage_chunk(storage, "s", 0, rows_table([good_row(row) for row in range(3)]))
    publication = publish_shard(storage, "s")
    assert publication.left is not None
    assert "5 of its samples are not there" in publication.left
    assert publication.counts is not None
    assert publication.counts.num_rows == 10
    assert {name: storage.read(name) for name in storage.walk("")} == before


class DeadReader:
    """A storage that gives nothing, however long it is waited for; `waits`: how long that was, shard by shard."""

    def __init__(self, patience: RetryConfig, waits: list[float]) -> None:
        self.patience, self.waits = patience, waits

    def with_patience(self, patience: RetryConfig) -> "DeadReader":
        return DeadReader(patience, self.waits)

    def index(self, shard: Shard) -> Contents:
        self.waits.append(self.patience.outage_s)
        time.sleep(self.patience.outage_s)
        return Contents(problems=(unreadable(shard, Exhausted(3, ConnectionError("nobody answers"))),))


def test_an_outage_is_waited_out_once_for_all_shards(storage: Storage, shard: Shard) -> None:
    shards = [replace(shard, name=f"t{number}") for number in range(200)]
    for again, folder in itertools.product(shards, (RESULTS, ERRORS)):
        storage.write(f"{folder}/{again.name}.parquet", storage.read(f"{folder}/s.parquet"))
    before = {name: storage.read(f"{RESULTS}/{name}") for name in storage.names(RESULTS)}
    waits: list[float] = []
    reader: Any = DeadReader(USUAL_PATIENCE, waits)
    left = open_again(storage, reader, shards, RetryErrors.ALL, 8, (), RetryConfig(outage_s=0.1))
    assert len(left) == len(shards)
    assert all("stays as it was published" in why for why in left)
    assert sum(waits) <= 8 * 0.1 + 0.1, "each thread waits once"
    assert {name: storage.read(f"{RESULTS}/{name}") for name in storage.names(RESULTS)} == before
