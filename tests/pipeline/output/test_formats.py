"""Files on storage say which version of the format they have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from conf.errors import UserError
from pipeline.output.formats import KEY, VERSION
from pipeline.output.ledger import PLAN_NAME, RUN_NAME, known_shards, save_plan
from pipeline.output.output import Output
from pipeline.output.publish import RESULTS, publish_shard, published_name, read_counts
from pipeline.output.staging import load_index, rows_table, save_index, stage_chunk
from pipeline.output.storage import Storage
from pipeline.source.plan import Asked, ByteRange, Part, Role, RowRange, Sample, Shard, Unit
from pipeline.source.questions import Questions
from pipeline.source.shard_index import ShardIndex
from pipeline.vqa.ticks import Tick, TickShard, load_ticks
from tests.pipeline.helpers import good_row, index_of

SHARD = Shard("s", "/s.tar", 1)
TICK = Tick(1, Questions(("why?",), None, "{question}"), (TickShard(SHARD, "s", ()),))


def write_all(storage: Storage) -> None:
    save_plan(storage, {}, [SHARD])
    save_index(storage, "p", index_of(1, 1))
    stage_chunk(storage, "p", 0, rows_table([good_row(0, shard="p")]))
    publish_shard(storage, "p")
    save_index(storage, "s", index_of(1, 1))
    stage_chunk(storage, "s", 0, rows_table([good_row(0)]))
    TICK.save(storage)
    storage.write_json(RUN_NAME, {"status": "complete"})


def test_tables_and_json_say_their_version(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    write_all(storage)
    for name in (PLAN_NAME, published_name(RESULTS, "p")):
        assert storage.read_metadata(name)[KEY.encode()] == str(VERSION).encode()
    for name in (RUN_NAME, f"{TICK.folder}/tick.json"):
        assert storage.read_json(name)[KEY] == VERSION
    assert (known_shards(storage), load_ticks(storage)) == ({"s": SHARD}, [TICK])


def former(key: str, *parts: tuple[str, int, int]) -> Sample:
    """What is read of a sample in an index of version 1."""
    columns = {
        "row": [0],
        "key": [key],
        "parts": [[dict(zip(("name", "offset", "size"), p, strict=True)) for p in parts]],
    }
    table = pa.table(columns).replace_schema_metadata({"chunk_rows": "1", "problems": "[]"})
    (sample,) = ShardIndex.from_table(table).samples
    return sample


def test_indexes_of_version_1_are_read() -> None:
    asked = former("00000007", ("row_group", 1, 2), ("__row", 7, 0), ("__mask", 0b101, 0), ("__mask", 1, 1))
    assert asked == Sample(0, "00000007", (), RowRange(7, 1), 1, None, Asked((0, 2, 62), 7))
    parts = (Part("metadata.parquet", RowRange(3, 1)), Part("a.txt"))
    assert former("a.jpg", ("a.jpg", 0, -1), ("metadata.parquet", 3, 1), ("a.txt", 0, -1)) == Sample(0, "a.jpg", parts)
    members = (Part("jpg", ByteRange(512, 9), Role.BROKEN_LINK), Part("row", ByteRange(0, 7)))
    assert former("a", ("jpg/broken_link", 512, 9), ("row", 0, 7)) == Sample(0, "a", members)


def test_shards_of_version_1_are_read() -> None:
    given = {"name": "s", "url": "/a", "size_bytes": 5, "members": ["3", "8"]}
    assert Shard.from_former(given) == Shard("s", "/a", 5, records=ByteRange(3, 5))
    rows = Shard("s", "/a.parquet", 5, records=RowRange(3, 5), unit=Unit.ROWS)
    assert Shard.from_former({**given, "url": "/a.parquet"}) == rows
    assert Shard.from_former({**given, "sizes": [1, 4]}) == Shard("s", "/a", 5, ("3", "8"), sizes=(1, 4))
    assert Shard.from_former({**given, "size_bytes": 2}) == Shard("s", "/a", 2, ("3", "8"), unit=Unit.FILES)
    assert Shard.from_json(rows.to_json()) == rows


@pytest.mark.parametrize(
    "read",
    [
        known_shards,
        load_ticks,
        lambda storage: load_index(storage, "s"),
        lambda storage: publish_shard(storage, "s"),
        lambda storage: read_counts(storage, "p"),
        lambda storage: Output(storage).record(),
    ],
    ids=["plan", "ticks", "index", "chunk", "results", "record"],
)
def test_what_a_newer_version_wrote_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Storage], Any]
) -> None:
    storage = Storage(str(tmp_path))
    with monkeypatch.context() as newer:
        newer.setattr("pipeline.output.storage.STAMP", {KEY.encode(): str(VERSION + 1).encode()})
        newer.setattr("pipeline.output.storage.VERSION", VERSION + 1)
        monkeypatch.setattr("pipeline.output.formats.VERSION", VERSION + 1)
        write_all(storage)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"was written by a newer version of this tool \(format 3, this one knows 2\)"):
        read(storage)
