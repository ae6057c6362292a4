"""Paths -> shards with stable names; an index survives a round trip."""

import os
from pathlib import Path

import pytest

from conf.errors import UserError
from pipeline.output.ledger import known_shards, save_plan
from pipeline.output.storage import Storage
from pipeline.source.plan import ByteRange, Part, Sample, Shard, ShardProblem
from pipeline.source.readers.source_files import expand_braces, find_files
from pipeline.source.retrying import ONE_TRY
from pipeline.source.shard_index import ShardIndex
from pipeline.source.shard_names import name_shards
from tests.pipeline.output.test_ledger import config as any_config
from tests.pipeline.small_run import done_rows, small_run
from tests.shards import image_bytes, write_tar


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


def test_names_that_have_nothing_to_tell_them_apart_get_a_mark_that_lasts() -> None:
    odd = os.fsdecode(b"/caf\xe9.tar"), os.fsdecode(b"/caf\xe8.tar")
    for urls in (["/a.tar", "/a.tar.gz"], ["/d/猫.tar", "/d/犬.tar"], odd, ["/x/写真", "/x/動画"]):
        names = name_shards(urls)
        assert len({name.lower() for name in names.values()}) == 2
        assert all(name.isascii() for name in names.values())
        assert name_shards(list(reversed(urls))) == names
        assert name_shards([*urls, "/d/other.tar"], names).items() > names.items()


def test_names_have_room_for_what_is_put_behind_them_and_stay_distinct() -> None:
    urls = [f"/d/{'x' * 240}{end}.tar" for end in ("", "1", "2", "A", "a")]
    names = name_shards(urls)
    assert all(len(f"{name}-00012-t000001-00000.parquet") <= 143 for name in names.values())
    assert len({name.lower() for name in names.values()}) == len(urls)
    assert name_shards(reversed(urls)) == names, "a name does not depend on what else there is"
    assert name_shards(urls, {urls[0]: "x" * 240})[urls[0]] == "x" * 240, "given out before"


def test_names_that_differ_in_case_alone_are_told_apart_on_every_file_system() -> None:
    names = name_shards(["/d/A.tar", "/d/a.tar", "/e/B.tar"])
    assert (names["/d/A.tar"], names["/e/B.tar"]) == ("A", "B")
    assert names["/d/a.tar"].startswith("a-")
    assert name_shards(["/d/b.tar", "/e/B.tar"], {"/e/B.tar": "B"})["/d/b.tar"].startswith("b-")


def test_a_shard_whose_name_is_as_long_as_the_file_system_allows_is_published(tmp_path: Path) -> None:
    """Also where a former version has planned it under that name, could not publish it, and was stopped."""
    (tmp_path / "in").mkdir()
    paths = [tmp_path / "in" / f"{'y' * 250}{end}.tar" for end in "01"]
    for path in paths:
        write_tar(path, [("k0.jpg", image_bytes((1, 2, 3))), ("k1.jpg", image_bytes((3, 2, 1)))])
    for out in ("new", "begun"):
        storage = Storage(f"{tmp_path}/{out}")
        config = any_config(source={"paths": [f"{tmp_path}/in/*.tar"]}, output={"path": storage.url})
        if out == "begun":
            save_plan(storage, {}, [Shard(path.stem, str(path), path.stat().st_size) for path in paths])
        small_run(config)
        assert len(done_rows(storage.url)) == 4
        planned = {shard.url: name for name, shard in known_shards(storage).items()}
        assert planned.keys() == {str(path) for path in paths}, "which name is which shard is on record"
        assert {f"{name}.parquet" for name in planned.values()} == set(storage.names("results"))


@pytest.mark.parametrize(("num_samples", "num_chunks"), [(0, 1), (1, 1), (4, 1), (5, 2), (8, 2)])
def test_chunks_cover_a_shard_and_an_empty_one_has_one(num_samples: int, num_chunks: int) -> None:
    samples = tuple(Sample(row, f"k{row}", (Part("jpg", ByteRange(row * 10, 7)),)) for row in range(num_samples))
    index = ShardIndex(samples, (ShardProblem("truncated_shard", "cut"),), chunk_rows=4)
    assert index.num_chunks == num_chunks
    assert tuple(s for chunk in range(num_chunks) for s in index.chunk_samples(chunk)) == samples
    assert ShardIndex.from_table(index.to_table()) == index
