"""Source columns in the results: every Arrow type, one type over a run, and values that fit none."""

import datetime
import decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.image_plan import ImagePlan
from conf.schema import RetryErrors
from conf.source import PromptConfig, SourceConfig, SourceKind
from pipeline.chunk import from_ipc
from pipeline.output.publish import publish_shard
from pipeline.output.second_chance import open_again
from pipeline.output.staging import rows_table, stage_chunk
from pipeline.output.storage import Storage
from pipeline.source.passthrough import COLUMNS_NAME, settle
from pipeline.source.readers import make_reader
from pipeline.source.source_types import TEXT, common_types, plain_type, python_values, to_text
from pipeline.stages import IndexShard, PrepareChunk, shard_task
from pipeline.tables import Passthrough
from tests.shards import image_bytes

UTC, DAY = datetime.timezone.utc, datetime.date(2024, 2, 29)
COLUMNS = {
    "timestamp": pa.array([datetime.datetime(2024, 2, 29, 1, 2, 3, 4), None], pa.timestamp("us")),
    "zoned": pa.array([datetime.datetime(2024, 2, 29, tzinfo=UTC), None], pa.timestamp("ms", "Europe/Berlin")),
    "nanoseconds": pa.array([1, 2], pa.timestamp("ns")),
    "date": pa.array([DAY, None], pa.date32()),
    "time": pa.array([datetime.time(23, 59, 59, 999999), None], pa.time64("us")),
    "duration": pa.array([datetime.timedelta(days=-2, microseconds=5), None], pa.duration("us")),
    "decimal": pa.array([decimal.Decimal("12345678901234567890.12"), None], pa.decimal128(30, 2)),
    "bytes": pa.array([b"\xff\x00", None], pa.binary()),
    "large": pa.array([b"\xfe", None], pa.large_binary()),
    "nested": pa.array(
        [{"when": DAY, "tags": ["a", None]}, None],
        pa.struct({"when": pa.date32(), "tags": pa.list_(pa.string())}),
    ),
    "map": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int32())),
    "category": pa.array(["x", None]).dictionary_encode(),
    "flag": pa.array([True, None]),
    "big": pa.array([2**64 - 1, None], pa.uint64()),
    "float": pa.array([float("nan"), 0.1], pa.float32()),
    "text": pa.array(["ä", None], pa.large_string()),
    "nothing": pa.nulls(2),
}  # fmt: skip


def write_parquet(path: Path, columns: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    images = pa.array([image_bytes((n, 1, 1)) for n in range(table.num_rows)], pa.binary())
    pq.write_table(table.append_column("image", images), path)


def prepared_of(tmp_path: Path, names: tuple[str, ...], **source: Any) -> list[tuple[str, pa.Table, Passthrough]]:
    """(shard, prepared rows, fields) of every shard of `in/`, as a run gets them."""
    given = {"kind": SourceKind.PARQUET, "paths": (f"{tmp_path}/in/*.parquet",), "passthrough": names, **source}
    config, storage = SourceConfig(**given), Storage(f"{tmp_path}/out")
    reader = make_reader(config)
    shards = reader.shards(()).shards
    fields = settle(storage, reader, config, shards, begun=False)
    prepare = PrepareChunk(reader, config.prompt, None, fields, ImagePlan.squeeze(32), 10_000)
    return [
        (shard.name, from_ipc(chunk["rows"][0].as_buffer()), fields)
        for shard in shards
        for tasks in IndexShard(reader, storage, 10)(pa.Table.from_pylist([shard_task(shard, ())]))
        for chunk in prepare(tasks)
    ]


def published(tmp_path: Path, *args: Any, **source: Any) -> pa.Table:
    """results/ and errors/ together, as a captioner that answers "text" would make them."""
    storage = Storage(f"{tmp_path}/out")
    tables: list[pa.Table] = []
    for shard, prepared, fields in prepared_of(tmp_path, *args, **source):
        rows = [{**row, "shard": shard, "text": "text"} for row in prepared.to_pylist()]
        stage_chunk(storage, shard, 0, rows_table(rows, fields))
        assert publish_shard(storage, shard, fields).counts is not None
        tables += [storage.read_table(f"{kind}/{shard}.parquet") for kind in ("results", "errors")]
    assert len({table.schema.field("src_" + args[0][0]).type for table in tables}) == 1
    return pa.concat_tables(tables, promote_options="default")


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_comes_out_as_it_was(tmp_path: Path, name: str) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", {name: COLUMNS[name]})
    column = published(tmp_path, (name,))[f"src_{name}"]
    assert column.type == plain_type(COLUMNS[name].type)
    assert repr(column.to_pylist()) == repr(COLUMNS[name].to_pylist())


def test_files_that_differ_make_text_and_widths_the_widest(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", {"n": pa.array([1], pa.int16()), "x": [b"\xff"], "only": [DAY]})
    write_parquet(tmp_path / "in" / "b.parquet", {"n": pa.array([2**40], pa.int64()), "x": [[1.5, None]]})
    table = published(tmp_path, ("n", "x", "only", "absent"))
    assert [str(table.schema.field(f"src_{n}").type) for n in ("n", "x", "only", "absent")] == [
        "int64", "string", "date32[day]", "string",
    ]  # fmt: skip
    assert table["src_n"].to_pylist() == [1, 2**40]
    assert table["src_x"].to_pylist() == ["/w==", "[1.5, null]"]
    assert table["src_only"].to_pylist() == [DAY, None]


def test_what_is_added_later_is_cast_or_an_errors_row(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", {"n": pa.array([1], pa.int32()), "day": [DAY]})
    published(tmp_path, ("n", "day"))
    write_parquet(tmp_path / "in" / "b.parquet", {"n": pa.array([2, 2**40, None]), "day": [None, None, None]})
    write_parquet(tmp_path / "in" / "c.parquet", {"n": ["three"], "day": [datetime.datetime(2024, 2, 29, 5)]})
    table = published(tmp_path, ("n", "day"))
    rows = {row["sample_id"]: (row["src_n"], row["stage"], row["error_type"]) for row in table.to_pylist()}
    assert rows == {
        "a/00000000": (1, None, None),
        "b/00000000": (2, None, None),
        "b/00000001": (None, "read", "bad_passthrough"),
        "b/00000002": (None, None, None),
        "c/00000000": (None, "read", "bad_passthrough"),
    }
    (message,) = (row["message"] for row in table.to_pylist() if row["sample_id"] == "c/00000000")
    assert "src_n: str does not fit int32" in message


def test_an_output_of_the_version_before_goes_on_with_text(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", {"day": [DAY], "nested": [{"a": b"\x01"}]})
    config = SourceConfig(kind=SourceKind.PARQUET, paths=(f"{tmp_path}/in/a.parquet",), passthrough=("day", "nested"))
    reader = make_reader(config)
    settle(Storage(f"{tmp_path}/out"), reader, config, reader.shards(()).shards, begun=True)
    assert Storage(f"{tmp_path}/out").exists(COLUMNS_NAME)
    table = published(tmp_path, ("day", "nested"))
    assert table.select(["src_day", "src_nested"]).to_pylist() == [
        {"src_day": "2024-02-29", "src_nested": '{"a": "AQ=="}'}
    ]


def test_values_that_python_cannot_hold_cost_their_row_only(tmp_path: Path) -> None:
    years = pa.array([0, 10**15, 1], pa.timestamp("s"))
    names = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.array([0, 1, 3, 4], pa.int32()).buffers()[1], pa.py_buffer(b"aa\xffc")]
    )
    write_parquet(tmp_path / "in" / "a.parquet", {"when": years, "name": names})
    table = published(tmp_path, ("when", "name")).sort_by("sample_id")
    assert [row["error_type"] for row in table.to_pylist()] == [None, "bad_passthrough", None]
    assert table["src_name"].to_pylist() == ["a", "a\\udcff", "c"]
    assert python_values(pa.array([1, 1000], pa.time64("ns"))) == ["00:00:00.000000001", datetime.time(0, 0, 0, 1)]


def test_fields_of_the_prompts_own_are_text_beside_typed_ones(tmp_path: Path) -> None:
    items = [[{"question": "a?", "number": 1}, {"question": "b?", "number": "2"}]]
    items[0][1]["number"] = 2
    write_parquet(tmp_path / "in" / "a.parquet", {"qa": items, "number": [7], "day": [DAY]})
    prompt = PromptConfig(template="{question}", list_field="qa")
    table = published(tmp_path, ("number", "day", "qa"), prompt=prompt)
    assert table["src_number"].to_pylist() == ["1", "2"]
    assert table["src_day"].to_pylist() == [DAY, DAY]
    assert all(text.startswith('[{"question": "a?"') for text in table["src_qa"].to_pylist())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("\ud83d", "\\ud83d"),
        (["\udcff", {"\ud83d": 1}], '["\\\\udcff", {"\\\\ud83d": 1}]'),
        (datetime.timedelta(days=1, microseconds=1500), "PT86400.0015S"),
        (datetime.timedelta(seconds=-5), "-PT5S"),
        (decimal.Decimal("1.10"), "1.10"),
        (float("inf"), "Infinity"),
        ({"a": datetime.time(1, 2)}, '{"a": "01:02:00"}'),
    ],
)
def test_text_of_a_value(value: Any, text: str) -> None:
    assert to_text(value) == text


def test_extension_and_view_types_are_what_they_hold() -> None:
    schema = pa.schema([("view", pa.string_view()), ("list", pa.list_view(pa.int8())), ("uuid", pa.uuid())])
    found = common_types([schema])
    assert found == {"view": TEXT, "list": pa.list_(pa.int8()), "uuid": pa.binary()}
    assert common_types([schema, None]) == dict.fromkeys(found, TEXT), "a file without types beside one that has them"
    assert plain_type(pa.timestamp("s", "Nowhere/Atlantis")) == TEXT


@pytest.mark.parametrize("kind", ["manifest", "folder"])
def test_manifests_and_metadata_keep_their_types_too(tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(image_bytes((1, 1, 1)))
    name, column = ("m", "uri") if kind == "manifest" else ("metadata", "file_name")
    pq.write_table(pa.table({column: ["a.png"], "day": [DAY]}), tmp_path / "in" / f"{name}.parquet")
    source = (
        {"kind": SourceKind.MANIFEST}
        if kind == "manifest"
        else {"kind": SourceKind.IMAGES, "paths": (f"{tmp_path}/in",)}
    )
    assert published(tmp_path, ("day",), **source)["src_day"].to_pylist() == [DAY]


def test_sidecars_beside_typed_metadata_make_text(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in "ab":
        (tmp_path / "in" / f"{name}.png").write_bytes(image_bytes((1, 1, 1)))
    pq.write_table(pa.table({"file_name": ["a.png"], "n": [1]}), tmp_path / "in" / "metadata.parquet")
    (tmp_path / "in" / "b.json").write_text('{"n": "two"}')
    table = published(tmp_path, ("n",), kind=SourceKind.IMAGES, paths=(f"{tmp_path}/in",))
    assert table["src_n"].to_pylist() == ["1", "two"]


def test_rows_that_are_kept_in_a_retry_keep_their_types(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", {name: COLUMNS[name] for name in ("nanoseconds", "nested", "map")})
    names = ("nanoseconds", "nested", "map")
    before = published(tmp_path, names)
    config = SourceConfig(kind=SourceKind.PARQUET, paths=(f"{tmp_path}/in/a.parquet",), passthrough=names)
    storage, reader = Storage(f"{tmp_path}/out"), make_reader(config)
    shards = reader.shards(()).shards
    fields = settle(storage, reader, config, shards, begun=True)
    assert open_again(storage, reader, [shards[0]], RetryErrors.ALL, 10, fields) == []
    assert publish_shard(storage, "a", fields).counts is not None
    after = storage.read_table("results/a.parquet")
    assert after.equals(before.select(after.column_names)), "the record says the types, whatever is asked now"
