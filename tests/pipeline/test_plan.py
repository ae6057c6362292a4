"""Paths -> shards with stable names; an index survives a round trip."""

from pathlib import Path

import pytest

from conf.errors import UserError
from pipeline.plan import Part, Sample, ShardIndex, ShardProblem, name_shards
from pipeline.readers.source_files import expand_braces, find_files
from pipeline.retrying import ONE_TRY


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{08..11}.tar", ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]),
        ("a-{0..2}.tar", ["a-0.tar", "a-1.tar", "a-2.tar"]),
        ("a-{8..11}.tar", ["a-8.tar", "a-9.tar", "a-10.tar", "a-11.tar"]),
        ("{x,y}-{0..1}", ["x-0", "x-1", "y-0", "y-1"]),
    ],
)
def test_braces_expand_in_order(pattern: str, expected: list[str]) -> None:
    assert expand_braces(pattern) == expected


@pytest.mark.parametrize("pattern", ["a-{3..1}.tar", "a-{x}.tar"])
def test_senseless_braces_are_refused(pattern: str) -> None:
    with pytest.raises(UserError, match="a-"):
        expand_braces(pattern)


def test_files_are_found_sorted_and_once(tmp_path: Path) -> None:
    for name in ("b.tar", "a.tar", "c.txt"):
        (tmp_path / name).write_bytes(b"12345")
    found = find_files([f"{tmp_path}/*.tar", f"{tmp_path}/a.tar"], ONE_TRY, "webdataset")
    assert [file[:2] for file in found.files] == [(f"{tmp_path}/a.tar", 5), (f"{tmp_path}/b.tar", 5)]


@pytest.mark.parametrize("path", ["missing.tar", "none-*.tar", "part-{0..1}.tar"])
def test_a_path_without_a_file_is_one_clear_sentence(tmp_path: Path, path: str) -> None:
    with pytest.raises(UserError, match=r"^(shard not found|no shard matches)"):
        find_files([str(tmp_path / path)], ONE_TRY, "webdataset")


def test_a_folder_and_an_unknown_protocol_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no tar shards"):
        find_files([str(tmp_path)], ONE_TRY, "webdataset")
    with pytest.raises(UserError, match="cannot open"):
        find_files(["nosuch://bucket/a.tar"], ONE_TRY, "webdataset")


def test_shards_are_named_by_file_unless_that_collides() -> None:
    assert name_shards(["/d/part-0.tar", "/d/part-1.tar.gz"]) == {
        "/d/part-0.tar": "part-0",
        "/d/part-1.tar.gz": "part-1",
    }
    names = name_shards(["s3://b/train/0.tar", "s3://b/val/0.tar", "s3://b/val/1.tar"])
    assert sorted(names.values()) == ["1", "train__0", "val__0"]


def test_names_given_out_before_are_kept() -> None:
    known = {"/train/0.tar": "0"}
    assert name_shards(["/train/0.tar", "/val/0.tar"], known) == {"/train/0.tar": "0", "/val/0.tar": "val__0"}


def test_identical_short_urls_cannot_be_told_apart() -> None:
    with pytest.raises(UserError, match="cannot tell"):
        name_shards(["/a.tar", "/a.tar.gz"])


@pytest.mark.parametrize(("num_samples", "num_chunks"), [(0, 1), (1, 1), (4, 1), (5, 2), (8, 2)])
def test_chunks_cover_a_shard_and_an_empty_one_has_one(num_samples: int, num_chunks: int) -> None:
    samples = tuple(Sample(row, f"k{row}", (Part("jpg", row * 10, 7),)) for row in range(num_samples))
    index = ShardIndex(samples, (ShardProblem("truncated_shard", "cut"),), chunk_rows=4)
    assert index.num_chunks == num_chunks
    assert tuple(s for chunk in range(num_chunks) for s in index.chunk_samples(chunk)) == samples
    assert ShardIndex.from_table(index.to_table()) == index
