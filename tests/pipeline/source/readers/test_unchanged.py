"""A shard that is replaced by another file of the same size: noticed while it is read, and when a run is continued."""

import gzip
import io
import json
import os
import tarfile
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.errors import UserError
from conf.source import RetryConfig, SourceConfig
from pipeline.output.ledger import PLAN_NAME, check_plan, known_shards, save_plan
from pipeline.output.storage import Storage
from pipeline.source.plan import Listing, Shard
from pipeline.source.readers import Reader, ReadFailure, make_reader
from pipeline.source.readers.unchanged import ShardChanged, as_of_now, check_unchanged
from pipeline.source.shard_index import ShardIndex
from pipeline.source.versions import differ, differ_in_content, version_of
from pipeline.stages import IndexShard, shard_task
from tests.shards import write_tar
from tests.site import running_site, send


def replace_file(path: Path, data: bytes | None = None) -> None:
    """By as many bytes, later."""
    before = path.stat()
    new = path.with_suffix(".new")
    new.write_bytes(data if data is not None else bytes(before.st_size))
    assert new.stat().st_size == before.st_size
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns + 5_000_000_000))
    new.replace(path)


def write_shard(folder: Path, kind: str, count: int = 40) -> Path:
    if kind == "parquet":
        images = [b"%04d" % n for n in range(count)]
        pq.write_table(pa.table({"image": images}), folder / "a.parquet", row_group_size=10)
        return folder / "a.parquet"
    path = write_tar(folder / "a.tar", [(f"{n:04d}.jpg", b"%04d" % n) for n in range(count)])
    if kind == "gz":
        with tarfile.open(folder / "b.tar", "w:gz") as tar:
            for n in range(count):
                header = tarfile.TarInfo(f"{n:04d}.jpg")
                header.size = 4
                tar.addfile(header, io.BytesIO(b"%04d" % n))
        (folder / "b.tar").replace(path)
    return path


def source_of(path: Path) -> SourceConfig:
    return SourceConfig(kind="parquet" if path.suffix == ".parquet" else "webdataset", paths=(str(path),))


@pytest.mark.parametrize("kind", ["tar", "gz", "parquet"])
def test_a_shard_replaced_while_it_is_read_is_said_to_be(tmp_path: Path, kind: str) -> None:
    path = write_shard(tmp_path, kind)
    reader = make_reader(source_of(path))
    (shard,) = reader.shards(()).shards
    samples = reader.index(shard).samples
    assert [raw.image for raw in reader.read(shard, samples[:20])] == [b"%04d" % n for n in range(20)]
    replace_file(path)
    with pytest.raises(ReadFailure, match="was replaced while it was read") as caught:
        list(reader.read(shard, samples[20:]))
    assert caught.value.error_type == "shard_changed"
    assert caught.value.__cause__ is None  # nobody waits for it to pass
    contents = reader.index(shard)
    assert (contents.samples, [problem.error_type for problem in contents.problems]) == ((), ["shard_changed"])


MANIFESTS = {
    "m.csv": lambda uris: "\n".join(["uri", *uris, ""]).encode(),
    "m.txt": lambda uris: "\n".join([*uris, ""]).encode(),
    "m.jsonl.gz": lambda uris: gzip.compress(b"".join(b'{"uri": "%s"}\n' % uri.encode() for uri in uris)),
    "m.parquet": lambda uris: _parquet(uris),
}


def _parquet(uris: list[str]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"uri": uris}), sink)
    return bytes(sink.getvalue())


def manifest_of(folder: Path, name: str) -> tuple[Path, Reader, Shard]:
    for n in range(40):
        (folder / f"{n:04d}.jpg").write_bytes(b"%04d" % n)
    path = folder / name
    path.write_bytes(MANIFESTS[name]([f"{n:04d}.jpg" for n in range(40)]))
    reader = make_reader(SourceConfig(kind="manifest", paths=(str(path),)))
    return path, reader, reader.shards(()).shards[0]


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_replaced_while_it_is_read_is_said_to_be(tmp_path: Path, name: str) -> None:
    path, reader, shard = manifest_of(tmp_path, name)
    samples = reader.index(shard).samples
    without_members = replace(shard, members=())  # as it travels to those who read
    assert [raw.image for raw in reader.read(without_members, samples[:20])] == [b"%04d" % n for n in range(20)]
    replace_file(path, path.read_bytes()[::-1])
    with pytest.raises(ReadFailure, match="was replaced while it was read") as caught:
        list(reader.read(without_members, samples[20:]))
    assert caught.value.error_type == "shard_changed"
    contents = reader.index(shard)
    assert (contents.samples, [problem.error_type for problem in contents.problems]) == ((), ["shard_changed"])


@pytest.mark.parametrize("name", MANIFESTS)
def test_records_may_be_appended_to_a_manifest_while_it_is_read_and_between_runs(tmp_path: Path, name: str) -> None:
    path, reader, shard = manifest_of(tmp_path, name)
    storage = Storage(f"{tmp_path}/out")
    (task,) = IndexShard(reader, storage, 20)(pa.Table.from_pylist([shard_task(shard, [])])).__next__().to_pylist()
    save_plan(storage, {}, [shard])
    samples = reader.index(shard).samples
    path.write_bytes(MANIFESTS[name]([f"{n:04d}.jpg" for n in range(40)] + ["more.jpg"] * 50))
    os.utime(path, (1, 1))
    assert [raw.image for raw in reader.read(shard, samples[20:])] == [b"%04d" % n for n in range(20, 40)]
    (again, *_) = reader.shards([shard]).shards
    assert again.version != shard.version
    check_plan(known_shards(storage), Listing((replace(again, version="content:other"),)))
    spans = list(IndexShard(reader, storage, 20)(pa.Table.from_pylist([shard_task(again, [])])))
    (span, *_) = spans
    assert json.loads(span["shard"][0].as_py())["version"] == again.version, "taken for another file"
    assert task["num_chunks"] == 2


def test_a_shard_of_the_web_is_known_by_its_etag(tmp_path: Path) -> None:
    data = write_shard(tmp_path, "tar").read_bytes()
    tag = ["first"]

    def page(handler: Any) -> None:
        span = handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")
        first, end = int(span[0]), min(len(data), int(span[1] or len(data)) + 1)
        extra = {"Content-Range": f"bytes {first}-{end - 1}/{len(data)}"} if "Range" in handler.headers else {}
        send(handler, 206 if extra else 200, data[first:end], ETag=f'W/"{tag[0]}"', Accept_Ranges="bytes", **extra)

    with running_site() as site:
        site.pages["/a.tar"] = page
        reader = make_reader(SourceConfig(paths=(f"{site.url}/a.tar",)))
        (shard,) = reader.shards(()).shards
        assert shard.version == "content:first"
        samples = reader.index(shard).samples
        assert len(list(reader.read(shard, samples[:5]))) == 5
        tag[0] = "second"
        with pytest.raises(ShardChanged):
            list(reader.read(shard, samples[5:]))
        with pytest.raises(UserError, match=r"with the tag first then, .* with the tag second now"):
            check_plan({"a": shard}, reader.shards(()))


@pytest.mark.parametrize(
    ("status", "listing", "error_type"),
    [
        (503, "cannot list .*503", "storage_error"),
        (403, "cannot list .*403", "storage_error"),
        (404, "not found", "missing_shard"),
    ],
)
def test_a_web_server_that_is_away_is_no_shard_that_is_gone(
    tmp_path: Path, status: int, listing: str, error_type: str
) -> None:
    """Its client says "file not found" whatever the answer was."""
    data = write_shard(tmp_path, "tar").read_bytes()
    with running_site() as site:
        site.pages["/a.tar"] = data
        source = SourceConfig(paths=(f"{site.url}/a.tar",), retry=RetryConfig(outage_s=0))
        reader = make_reader(source)
        (shard,) = reader.shards(()).shards
        samples = reader.index(shard).samples
        site.pages["/a.tar"] = lambda handler: send(handler, status)
        for known in ((), (shard,)):
            with pytest.raises(UserError, match=listing if not known or status != 404 else "nothing is left"):
                reader.shards(known)
        with pytest.raises(ReadFailure) as failure:
            list(reader.read(shard, samples[5:]))
        assert failure.value.error_type == error_type


def test_versions_are_compared_where_they_are_of_one_kind() -> None:
    assert version_of({"ETag": '"abc"', "LastModified": datetime(2026, 1, 1)}) == "content:abc"
    assert version_of({"mtime": 12.5, "ino": 3}) == "time:12.500000"
    assert version_of({"Last-Modified": "Mon"}) == "time:Mon"
    assert version_of({"size": 3}) == ""
    assert differ("time:1", "time:2")
    assert not differ_in_content("time:1", "time:2")
    assert differ_in_content("content:1", "content:2")
    assert not differ("content:1", "time:2")
    assert not differ("", "time:2")


def test_a_copy_with_another_time_is_the_same_shard_and_other_content_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    then = Shard("a", "/d/a.tar", 10, version="time:1")
    check_plan({"a": then}, Listing((Shard("a", "/d/a.tar", 10, version="time:1"),)))
    assert caplog.records == []
    check_plan({"a": then}, Listing((Shard("a", "/d/a.tar", 10, version="time:2"),)))
    assert "1 shard was written again" in caplog.text
    tagged = Shard("a", "s3://b/a.tar", 10, version="content:x")
    check_plan({"a": tagged}, Listing((Shard("a", "s3://elsewhere/a.tar", 10, version="content:y"),)))
    with pytest.raises(UserError, match="has changed since this output was begun"):
        check_plan({"a": tagged}, Listing((Shard("a", "s3://b/a.tar", 10, version="content:y"),)))


def test_plans_keep_versions_and_those_without_are_read(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    shard = Shard("a", "/d/a.tar", 10, version="time:1")
    save_plan(storage, {}, [shard])
    assert known_shards(storage) == {"a": shard}
    storage.write_table(PLAN_NAME, storage.read_table(PLAN_NAME).drop_columns(["version"]))
    assert known_shards(storage)["a"].version == ""


def tasks_of(storage: Storage, path: Path, staged: list[int]) -> list[dict[str, Any]]:
    reader = make_reader(source_of(path))
    (shard,) = reader.shards(()).shards
    task = pa.Table.from_pylist([shard_task(shard, staged)])
    return [row for table in IndexShard(reader, storage, 10)(task) for row in table.to_pylist()]


@pytest.mark.parametrize("copied", [True, False])
def test_a_continued_run_reads_a_copy_and_refuses_another_file(tmp_path: Path, copied: bool) -> None:
    path, storage = write_shard(tmp_path, "tar"), Storage(str(tmp_path / "out"))
    assert len(tasks_of(storage, path, [])) == 4
    other = write_tar(tmp_path / "other.tar", [(f"{n:03d}x.jpg", b"%04d" % n) for n in range(40)])
    replace_file(path, (path if copied else other).read_bytes())
    tasks = tasks_of(storage, path, [0])
    assert len(tasks) == 3
    shard = Shard.from_json(tasks[0]["shard"])
    if copied:
        check_unchanged(shard)
    else:
        with pytest.raises(ShardChanged):
            check_unchanged(shard)


def test_the_version_of_an_index_travels_with_it() -> None:
    index = ShardIndex((), (), 10, version="time:1")
    assert ShardIndex.from_table(index.to_table()) == index


def test_a_link_to_a_shard_has_the_version_of_the_shard(tmp_path: Path) -> None:
    path = write_shard(tmp_path, "tar")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.tar").symlink_to(path)
    os.utime(path, (1, 1))
    (shard,) = make_reader(SourceConfig(paths=(f"{tmp_path}/links/*.tar",))).shards(()).shards
    check_unchanged(shard)
    assert shard.version == "time:1.000000"


def test_shards_planned_earlier_get_the_time_they_have_now_unless_they_are_others(tmp_path: Path) -> None:
    path = write_shard(tmp_path, "tar")
    size = path.stat().st_size
    os.utime(path, (2, 2))
    planned = [
        Shard("a", str(path), size, version="time:1"),
        Shard("b", str(path), size + 1, version="time:1"),
        Shard("c", str(path), size, version="content:x"),
        Shard("d", str(tmp_path / "gone"), size, version="time:1"),
    ]
    versions = [shard.version for shard in as_of_now(planned)]
    assert versions == ["time:2.000000", "time:1", "content:x", "time:1"]
