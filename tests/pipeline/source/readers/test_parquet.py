"""Parquet shards: bytes columns and {bytes, path} structs, row groups as split points, nothing read in vain."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.errors import UserError
from conf.source import FetchConfig, SourceConfig
from pipeline.source.plan import Shard, given_id
from pipeline.source.readers import ReadFailure, field_names, make_reader
from pipeline.source.readers.parquet import ParquetReader
from pipeline.source.shard_index import ShardIndex


def write_parquet(path: Path, num_rows: int, row_group_size: int, struct: bool = False, **columns: Any) -> Shard:
    images: list[Any] = [f"image {n}".encode() for n in range(num_rows)]
    if struct:
        images = [{"bytes": image, "path": f"{n}.jpg"} for n, image in enumerate(images)]
    table = pa.table({"image": images, "question": [f"q{n}" for n in range(num_rows)], **columns})
    pq.write_table(table, path, row_group_size=row_group_size)
    return Shard(path.stem, str(path), path.stat().st_size)


@pytest.mark.parametrize("struct", [False, True])
def test_rows_in_any_chunk_come_with_their_image_and_the_fields_asked_for(tmp_path: Path, struct: bool) -> None:
    shard = write_parquet(tmp_path / "a.parquet", 700, 300, struct, other=list(range(700)))
    reader = ParquetReader((shard.url,), fields=("question", "absent"))
    contents = reader.index(shard)
    samples, problems = contents.samples, contents.problems
    assert ([s.key for s in samples[:2]], len(samples), problems) == (["00000000", "00000001"], 700, ())
    for part in (samples[:5], samples[298:302], samples[650:], samples[3::171]):
        found = list(reader.read(shard, part))
        assert [raw.image for raw in found] == [f"image {s.row}".encode() for s in part]
        assert [raw.fields for raw in found] == [{"question": f"q{s.row}"} for s in part]


def test_chunks_of_one_row_group_are_read_together(tmp_path: Path) -> None:
    shard = write_parquet(tmp_path / "a.parquet", 1000, 400)
    reader = ParquetReader((shard.url,))
    index = ShardIndex(reader.index(shard).samples, (), 200)
    assert reader.spans(shard, index, [0, 1, 2, 3, 4]) == [[0, 1], [2, 3], [4]]
    assert reader.spans(shard, index, [1, 4]) == [[1], [4]]


def test_all_columns_by_a_star_and_lists_stay_lists(tmp_path: Path) -> None:
    shard = write_parquet(tmp_path / "a.parquet", 2, 2, qa=[[{"question": "a?"}], []])
    (first, second) = ParquetReader((shard.url,), fields=("*",)).read(
        shard, ParquetReader((shard.url,)).index(shard).samples
    )
    assert first.fields == {"question": "q0", "qa": [{"question": "a?"}]}
    assert second.fields["qa"] == []


def test_rows_without_bytes_say_so(tmp_path: Path) -> None:
    images = [{"bytes": None, "path": ""}, None]
    pq.write_table(pa.table({"image": images}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": ["text"]}), tmp_path / "b.parquet")
    reader = ParquetReader((f"{tmp_path}/*.parquet",))
    messages = [
        (raw.error_type, raw.message)
        for shard in reader.shards(()).shards
        for raw in reader.read(shard, reader.index(shard).samples)
    ]
    assert messages == [
        ("no_image", "a/00000000: 'image' is null"),
        ("no_image", "a/00000001: 'image' is null"),
        ("no_image", "b/00000000: 'image' holds a text, not bytes"),
    ]


def test_images_in_files_that_the_rows_name_lie_beside_the_shard(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x.jpg").write_bytes(b"x")
    (tmp_path / "y.jpg").write_bytes(b"y" * 50)
    images = [
        {"bytes": None, "path": "d/x.jpg"},
        {"bytes": b"own", "path": "d/x.jpg"},
        {"bytes": None, "path": str(tmp_path / "y.jpg")},
        {"bytes": None, "path": "gone.jpg"},
        {"bytes": None, "path": "ftp://h/x.jpg"},
    ]
    pq.write_table(pa.table({"image": images * 9, "n": list(range(45))}), tmp_path / "a.parquet")
    shard = Shard("a", str(tmp_path / "a.parquet"), 1)
    reader = ParquetReader((shard.url,), fields=("n",), fetch=FetchConfig(max_concurrent=4))
    found = list(reader.read(shard, reader.index(shard).samples))
    assert [raw.image or raw.error_type for raw in found] == [
        b"x", b"own", b"y" * 50, "missing_file", "forbidden_scheme",
    ] * 9  # fmt: skip
    assert [raw.fields["n"] for raw in found] == list(range(45))
    small = ParquetReader((shard.url,), fetch=FetchConfig(max_bytes=10, schemes=("s3",)))
    assert next(small.read(shard, reader.index(shard).samples)).error_type == "forbidden_scheme"


LISTS: list[list[bytes | None] | None] = [[b"a", b"b"], [], None, [b"c", None], *[[b"%d" % n] for n in range(40)]]


@pytest.mark.parametrize("form", ["bytes", "struct", "large", "struct of bytes"])
def test_each_image_of_a_list_is_a_row_with_the_number_of_the_image(tmp_path: Path, form: str) -> None:
    columns: dict[str, Any] = {
        "bytes": pa.array(LISTS, pa.list_(pa.binary())),
        "large": pa.array(LISTS, pa.large_list(pa.large_binary())),
        "struct": [own and [{"bytes": b, "path": "p" * 5} if b else None for b in own] for own in LISTS],
        "struct of bytes": [own and [{"bytes": b} for b in own] for own in LISTS],
    }
    table = pa.table({"images": columns[form], "id": [f"i{n}" for n in range(len(LISTS))]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=10)
    shard = Shard("a", str(tmp_path / "a.parquet"), 1)
    reader = ParquetReader((shard.url,), "images", fields=("id",))
    assert [s.name for s in reader.shards(()).shards] == ["a"]
    samples = reader.index(shard).samples
    expected = [
        ("00000000.0", "i0.0", b"a"), ("00000000.1", "i0.1", b"b"), ("00000001", "i1", "no_image"),
        ("00000002", "i2", "no_image"), ("00000003.0", "i3.0", b"c"), ("00000003.1", "i3.1", "no_image"),
        *((f"{n + 4:08d}.0", f"i{n + 4}.0", b"%d" % n) for n in range(40)),
    ]  # fmt: skip
    for part in (slice(None), slice(1, 6), slice(3, None, 7)):
        found = list(reader.read(shard, samples[part]))
        assert [
            (raw.sample.key, given_id(raw.fields["id"], raw.sample), raw.image or raw.error_type) for raw in found
        ] == expected[part]
    assert [sample.row for sample in samples] == list(range(46))
    index = ShardIndex.of(reader.index(shard), 10)
    assert ShardIndex.from_table(index.to_table()) == index


def test_columns_that_hold_no_images_are_one_sentence(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uri": ["a.jpg"], "n": [1], "none": pa.nulls(1)}), tmp_path / "a.parquet")
    path = str(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"holds text; of paths and URIs make it a manifest: source\.kind=manifest"):
        ParquetReader((path,), "uri").shards(())
    with pytest.raises(UserError, match="holds int64, not image bytes"):
        ParquetReader((path,), "n").shards(())
    ParquetReader((path,), "none").shards(())


def damage(path: Path, group: int, column: str) -> None:
    chunk = pq.ParquetFile(path).metadata.row_group(group)
    own = next(chunk.column(n) for n in range(chunk.num_columns) if chunk.column(n).path_in_schema.startswith(column))
    data = bytearray(path.read_bytes())
    middle = own.dictionary_page_offset or own.data_page_offset
    data[middle : middle + own.total_compressed_size] = b"\xff" * own.total_compressed_size
    path.write_bytes(data)


@pytest.mark.parametrize("lists", [False, True])
def test_a_damaged_row_group_costs_its_rows_and_no_other(tmp_path: Path, lists: bool) -> None:
    images = [[f"image {n}".encode()] if lists else f"image {n}".encode() for n in range(500)]
    table = pa.table({"image": images, "question": [f"q{n}" for n in range(500)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    shard = Shard("a", str(tmp_path / "a.parquet"), 1)
    damage(tmp_path / "a.parquet", 1, "image")
    damage(tmp_path / "a.parquet", 3, "question")
    reader = ParquetReader((shard.url,), fields=("question",))
    contents = reader.index(shard)
    assert (len(contents.samples), contents.problems) == (500, ())
    found = list(reader.read(shard, contents.samples))
    assert [raw.error_type or raw.image for raw in found] == [
        "damaged_row_group" if n // 100 in (1, 3) else b"image %d" % n for n in range(500)
    ]
    assert [raw.image for raw in reader.read(shard, contents.samples[200:300])] == [
        b"image %d" % n for n in range(200, 300)
    ]
    lazy = ParquetReader((shard.url,))
    assert [raw.image is None for raw in lazy.read(shard, contents.samples[300:400])] == [False] * 100


def test_a_file_that_is_gone_or_cut_is_a_failure_of_storage(tmp_path: Path) -> None:
    shard = write_parquet(tmp_path / "a.parquet", 2000, 1000)
    reader, path = ParquetReader((shard.url,)), tmp_path / "a.parquet"
    samples, whole = reader.index(shard).samples, path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    contents = reader.index(shard)
    (problem,) = contents.problems
    assert (contents.samples, problem.error_type) == ((), "unreadable_shard")
    path.unlink()
    with pytest.raises(ReadFailure):
        list(reader.read(shard, samples))


def test_a_wrong_column_is_one_sentence_with_the_right_ones(tmp_path: Path) -> None:
    shard = write_parquet(tmp_path / "a.parquet", 1, 1)
    with pytest.raises(UserError, match=r"source\.image_column='img' is no column of .*, which has image, question"):
        ParquetReader((shard.url,), "img").shards(())
    assert [s.name for s in ParquetReader((shard.url,)).shards(()).shards] == ["a"]


def test_the_fields_needed_follow_from_the_configuration() -> None:
    prompt = {"template": "Q: {question} {when}", "list_field": "qa"}
    source = SourceConfig(kind="parquet", paths=("x",), passthrough=("url", "when"), id_column="id", prompt=prompt)
    assert field_names(source) == ("url", "when", "id", "qa", "question")
    assert field_names(SourceConfig(paths=("x",))) == ()
    assert isinstance(make_reader(source), ParquetReader)
