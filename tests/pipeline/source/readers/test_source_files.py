"""What a path stands for: names that exist are no patterns, and a folder stands for the shards in it."""

import os
from pathlib import Path

import fsspec
import pytest

from conf.errors import UserError
from conf.source import SourceConfig, SourceKind
from pipeline.source.readers import make_reader
from pipeline.source.readers.source_files import find_files
from pipeline.source.retrying import ONE_TRY
from tests.shards import write_shards


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"12345")
    return folder


def found(folder: Path, *paths: str, kind: str = "webdataset") -> list[str]:
    files = find_files([f"{folder}/{path}" for path in paths], ONE_TRY, kind).files
    return [os.path.relpath(url, folder) for url, *_ in files]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("photos [2024]/*.tar", ["photos [2024]/a.tar", "photos [2024]/b[1].tar"]),
        ("photos [2024]/b[1].tar", ["photos [2024]/b[1].tar"]),
        ("a*b.tar", ["a*b.tar"]),
        ("a*c.tar", ["aXc.tar", "aYc.tar"]),
        ("what?.tar", ["what?.tar"]),
        ("{x}.tar", ["{x}.tar"]),
        ("{x}/{1..2}.tar", ["{x}/1.tar", "{x}/2.tar"]),
        ("100%25/*.tar", ["100%25/a b%20c.tar"]),
        ("one::two.tar", ["one::two.tar"]),
    ],
)
def test_what_exists_under_just_this_name_is_meant(tmp_path: Path, path: str, expected: list[str]) -> None:
    write(tmp_path, "photos [2024]/a.tar", "photos [2024]/b[1].tar", "photos 2/a.tar", "a*b.tar", "aXb.tar", "aXc.tar")
    write(tmp_path, "aYc.tar", "what?.tar", "what!.tar", "{x}.tar", "{x}/1.tar", "{x}/2.tar", "100%25/a b%20c.tar")
    write(tmp_path, "one::two.tar")
    assert found(tmp_path, path) == expected


def test_the_same_holds_on_object_storage() -> None:
    fs = fsspec.filesystem("memory")
    for name in ("x [1]/a.tar", "x [1]/b.tar", "x 1/c.tar"):
        fs.pipe_file(f"/names/{name}", b"1")
    files = find_files(["memory://names/x [1]/*.tar"], ONE_TRY, "webdataset").files
    assert [url.rpartition("names/")[2] for url, *_ in files] == ["x [1]/a.tar", "x [1]/b.tar"]


def test_shards_whose_names_are_odd_are_read(tmp_path: Path) -> None:
    write_shards(tmp_path / "in [1] {a} 5%", 2, 3)
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/in [1] {a} 5%/caf\xe9.tar")
    os.rename(tmp_path / "in [1] {a} 5%" / "part-000.tar", odd)
    reader = make_reader(SourceConfig(paths=(f"{tmp_path}/in [1] {{a}} 5%/*.tar",)))
    shards = reader.shards(()).shards
    assert len(shards) == 2
    assert [len(reader.index(shard).samples) for shard in shards] == [3, 3]
    assert all(raw.image for shard in shards for raw in reader.read(shard, reader.index(shard).samples))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (SourceKind.WEBDATASET, ["a.tar", "deep/b.tgz", "deep/c.tar.zst"]),
        (SourceKind.PARQUET, ["p.parquet"]),
        (SourceKind.MANIFEST, ["deep/m.csv.gz", "m.jsonl", "p.parquet"]),
    ],
)
def test_a_folder_stands_for_the_shards_in_it(tmp_path: Path, kind: SourceKind, expected: list[str]) -> None:
    write(tmp_path, "a.tar", "deep/b.tgz", "deep/c.tar.zst", "p.parquet", "m.jsonl", "deep/m.csv.gz", "README.md")
    write(tmp_path, "._a.tar", ".cache/x.parquet", ".x.jsonl")
    files = find_files([str(tmp_path)], ONE_TRY, kind.value)
    assert [os.path.relpath(url, tmp_path) for url, *_ in files.files] == expected
    assert {part.reason: part.count for part in files.left_out} == {"other_files": 7 - len(expected), "hidden_files": 3}


def test_a_folder_without_them_and_a_pipe_are_mistakes(tmp_path: Path) -> None:
    write(tmp_path / "empty", "notes.md")
    with pytest.raises(UserError, match=r"the folder '.*empty' holds no tar shards"):
        found(tmp_path, "empty")
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(UserError, match="is no file that could be read again"):
        found(tmp_path, "pipe.tar")
    write(tmp_path, "a.tar")
    globbed = find_files([f"{tmp_path}/*.tar"], ONE_TRY, "webdataset")
    assert ([os.path.basename(url) for url, *_ in globbed.files], globbed.left_out[0].reason) == (
        ["a.tar"],
        "special_files",
    )
