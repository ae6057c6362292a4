"""Staging, audit, publication: what is published is complete, in order, and exactly once."""

from pathlib import Path

import pytest

from pipeline.output import incarnation
from pipeline.output.ledger import Ledger
from pipeline.output.publish import Counts, audit_chunk, publish_shard, read_counts, write_engine_stats
from pipeline.output.staging import chunk_name, index_name, rows_table, save_index
from pipeline.output.storage import Storage
from pipeline.source.plan import ShardProblem
from pipeline.source.shard_index import ShardIndex
from pipeline.tables import errors_schema, results_schema
from tests.pipeline.helpers import bad_row, good_row, index_of, stage


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def test_a_complete_shard_is_published_in_input_order(storage: Storage) -> None:
    index = index_of(5, 2)
    stage(storage, index, 2, [good_row(4)])
    stage(storage, index, 0, [good_row(1), bad_row(0)])
    stage(storage, index, 1, [good_row(3), good_row(2, 1, 2), good_row(2, 0, 2)])
    publication = publish_shard(storage, "s")
    assert publication.counts == Counts(num_samples=5, num_rows=6, num_ok=5, num_errors=1, num_shard_errors=0)
    assert read_counts(storage, "s") == publication.counts
    results, errors = storage.read_table("results/s.parquet"), storage.read_table("errors/s.parquet")
    assert results["text"].to_pylist() == ["text 1.0", "text 2.0", "text 2.1", "text 3.0", "text 4.0"]
    assert errors["sample_id"].to_pylist() == ["s/k0"]
    assert results.schema.equals(results_schema())
    assert errors.schema.equals(errors_schema())
    assert storage.walk("_staging") == []


def test_a_missing_chunk_is_named_and_nothing_appears(storage: Storage) -> None:
    stage(storage, index_of(4, 2), 0, [good_row(0), good_row(1)])
    publication = publish_shard(storage, "s")
    assert (publication.counts, publication.redo) == (None, (1,))
    assert storage.walk("results") == storage.walk("errors") == []


def test_a_damaged_chunk_is_thrown_out_and_redone(storage: Storage) -> None:
    index = index_of(4, 2)
    stage(storage, index, 0, [good_row(0), good_row(1)])
    stage(storage, index, 1, [good_row(2), good_row(3)])
    storage.write(chunk_name(storage, "s", 1), storage.read(chunk_name(storage, "s", 1))[:-20])
    assert publish_shard(storage, "s").redo == (1,)
    assert not storage.exists(chunk_name(storage, "s", 1))
    assert storage.exists(chunk_name(storage, "s", 0))


def test_without_a_readable_index_the_shard_starts_again(storage: Storage) -> None:
    stage(storage, index_of(2, 2), 0, [good_row(0), good_row(1)])
    storage.write(index_name(storage, "s"), b"damaged")
    assert publish_shard(storage, "s").redo == (0,)
    assert storage.walk("_staging") == []


def test_problems_of_the_whole_shard_are_errors_without_a_key(storage: Storage) -> None:
    save_index(storage, "s", ShardIndex((), (ShardProblem("unreadable_shard", "403"),), 2))
    stage_index = ShardIndex((), (ShardProblem("unreadable_shard", "403"),), 2)
    stage(storage, stage_index, 0, [])
    counts = publish_shard(storage, "s").counts
    assert counts == Counts(0, 0, 0, 0, 1)
    (row,) = storage.read_table("errors/s.parquet").to_pylist()
    assert (row["sample_id"], row["key"], row["stage"], row["error_type"]) == ("s", None, "read", "unreadable_shard")
    assert storage.read_table("results/s.parquet").num_rows == 0


def test_publishing_again_after_a_crash_between_the_two_files_gives_the_same(storage: Storage) -> None:
    stage(storage, index_of(1, 2), 0, [good_row(0)])
    storage.write("errors/s.parquet", b"half of a crashed publication")
    counts = publish_shard(storage, "s").counts
    assert counts is not None
    assert storage.read_table("errors/s.parquet").num_rows == 0


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([good_row(0)], "row 1"),
        ([good_row(0), good_row(1), good_row(1)], "row 1"),
        ([good_row(0), bad_row(0), good_row(1)], "row 0"),
        ([good_row(0), good_row(1, 0, 2)], "row 1"),
        ([good_row(0), good_row(1, 1, 2), good_row(1, 1, 2)], "row 1"),
        ([good_row(0), good_row(1), good_row(2)], "row 2 is not of this chunk"),
        ([good_row(0), {**good_row(1), "key": "other"}], "'other' instead of 'k1'"),
    ],
)
def test_the_audit_finds_what_is_missing_doubled_or_foreign(rows: list[dict[str, object]], fault: str) -> None:
    (problem,) = audit_chunk(index_of(4, 2), 0, rows_table(rows))
    assert fault in problem


def test_strings_are_never_null_typed(storage: Storage) -> None:
    table = rows_table([{"row": 0}], passthrough=["caption"])
    assert all(str(table.schema.field(name).type) == "string" for name in ("text", "stage", "message", "src_caption"))


def test_a_run_whose_output_is_deleted_says_so(storage: Storage) -> None:
    ours = incarnation.renew(storage)
    stage(ours, index_of(1, 1), 0, [good_row(0)])
    storage.remove_folder("")
    with pytest.raises(incarnation.Superseded, match="was deleted while this run wrote into it"):
        write_engine_stats(ours, "a", [])
    assert storage.walk("") == []


def test_workers_of_an_overwritten_run_write_nothing_into_the_next_one(storage: Storage) -> None:
    """They stage where nobody looks, and neither publish nor leave statistics, whatever they had read before."""
    before = incarnation.renew(storage)
    index = index_of(2, 2)
    stage(before, index, 0, [good_row(0), {**good_row(1), "text": "old"}])
    now = incarnation.renew(storage)
    assert incarnation.current(storage).incarnation == now.incarnation != before.incarnation
    with pytest.raises(incarnation.Superseded):
        publish_shard(before, "s")
    with pytest.raises(incarnation.Superseded):
        write_engine_stats(before, "a", [])
    assert publish_shard(now, "s").redo == (0,)
    stage(now, index, 0, [good_row(0), good_row(1)])
    stage(before, index, 0, [good_row(0), {**good_row(1), "text": "old"}])
    ledger = Ledger.from_storage(now, ["s"])
    assert ledger.complete == {"s"}
    assert [path.partition("/")[0] for path in storage.walk("_staging")] == [now.incarnation] * 2
    assert publish_shard(now, "s").counts is not None
    assert storage.read_table("results/s.parquet")["text"].to_pylist() == ["text 0.0", "text 1.0"]


def test_a_publication_that_was_told_nobody_is_not_done_again(storage: Storage) -> None:
    stage(storage, index_of(2, 2), 0, [good_row(0), bad_row(1)])
    counts = publish_shard(storage, "s").counts
    assert publish_shard(storage, "s").counts == counts


def test_no_text_of_a_row_can_fail_its_table() -> None:
    half = chr(0xD83D)
    rows = [{"row": n, "text": t, "token_texts": [t, "b"], "message": t, "key": t} for n, t in enumerate((half, "a"))]
    table = rows_table([{**row, "src_note": row["text"]} for row in rows], ["note"])
    for name in ("text", "message", "key", "src_note"):
        assert table[name].to_pylist() == ["\\ud83d", "a"]
    assert table["token_texts"].to_pylist() == [["\\ud83d", "b"], ["a", "b"]]
