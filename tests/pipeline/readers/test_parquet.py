"""Parquet shards: bytes columns and {bytes, path} structs, row groups as split points, nothing read in vain."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.errors import UserError
from conf.schema import SourceConfig
from pipeline.plan import Shard, ShardIndex
from pipeline.readers import ReadFailure, field_names, make_reader
from pipeline.readers.parquet import ParquetReader


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
    images = [{"bytes": None, "path": "x.jpg"}, None]
    pq.write_table(pa.table({"image": images}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": ["text"]}), tmp_path / "b.parquet")
    reader = ParquetReader((f"{tmp_path}/*.parquet",))
    messages = [
        (raw.error_type, raw.message)
        for shard in reader.shards(()).shards
        for raw in reader.read(shard, reader.index(shard).samples)
    ]
    assert messages == [
        ("no_image", "a/00000000: 'image' is null, only its path 'x.jpg' is known"),
        ("no_image", "a/00000001: 'image' is null"),
        ("no_image", "b/00000000: 'image' holds str, not bytes"),
    ]


def test_a_cut_file_is_one_shard_problem_and_a_damaged_page_a_read_failure(tmp_path: Path) -> None:
    shard = write_parquet(tmp_path / "a.parquet", 2000, 1000)
    reader, path = ParquetReader((shard.url,)), tmp_path / "a.parquet"
    samples, whole = reader.index(shard).samples, path.read_bytes()
    path.write_bytes(whole[:100] + bytes(200) + whole[300:])
    with pytest.raises(ReadFailure):
        list(reader.read(shard, samples))
    path.write_bytes(whole[: len(whole) // 2])
    contents = reader.index(shard)
    found, (problem,) = contents.samples, contents.problems
    assert (found, problem.error_type) == ((), "unreadable_shard")


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
