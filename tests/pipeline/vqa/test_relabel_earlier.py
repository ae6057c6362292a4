"""A tick of an earlier version, relabelled by this one: the new answers bring columns that the old ones lack."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from pipeline.output.storage import Storage
from pipeline.tables import results_schema, to_table
from pipeline.vqa.relabel import Changes, replace_answers


def rows(text: str, count: int) -> list[dict[str, Any]]:
    return [
        {"sample_id": f"s/{n}", "shard": "s", "key": str(n), "prompt_index": 0, "prompt": "?", "text": text}
        for n in range(count)
    ]


def test_answers_replace_those_of_an_earlier_version(tmp_path: Path) -> None:
    storage, tick = Storage(str(tmp_path)), SimpleNamespace(folder="ticks/000001")
    old = to_table(rows("old", 3), results_schema()).drop_columns(["token_ids"])
    new = to_table([{**row, "token_ids": [4, 5]} for row in rows("new", 1)], results_schema())
    storage.write_table("ticks/000001/results/s.parquet", old.replace_schema_metadata({"deed.counts": "kept"}))
    storage.write_table("ticks/000001/relabel/results/s.parquet", new)
    replace_answers(storage, tick, Changes(0.5, ("s",), 1, 1, 1))  # type: ignore[arg-type]
    after: pa.Table = storage.read_table("ticks/000001/results/s.parquet")
    assert after["text"].to_pylist() == ["new", "old", "old"]
    assert after["token_ids"].to_pylist() == [[4, 5], None, None]
    assert after.schema.names == results_schema().names
    assert storage.read_metadata("ticks/000001/results/s.parquet")[b"deed.counts"] == b"kept"
