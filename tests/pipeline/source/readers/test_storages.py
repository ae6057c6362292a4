"""Manifests and their images on storages of every kind: slow, away for a while, or gone."""

import asyncio
import errno
import gzip
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from conf.errors import UserError
from conf.source import FetchConfig, RetryConfig, SourceConfig
from pipeline.source.readers import make_reader
from pipeline.source.readers.fetching.fetch import fetch_all
from pipeline.source.readers.fetching.web import FetchProblem
from pipeline.source.readers.images import ImageFolderReader
from pipeline.source.readers.manifest import ManifestReader
from tests.shards import write_tar

IMPATIENT = RetryConfig(outage_s=0.3)


class OtherMemory(MemoryFileSystem):
    """The files of memory:// under another scheme."""

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.rpartition("://")[2].strip("/")


class HangingFileSystem(OtherMemory):
    """Reads of `hang` never end until the test is over."""

    protocol = "hanging"
    over = threading.Event()

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        if path.endswith("hang"):
            self.over.wait()
        return bytes(super().cat_file(path, start, end, **kwargs))


class HangingAsyncFileSystem(AsyncFileSystem):
    """The same, as the back ends of object stores are made."""

    protocol = "hangingasync"

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        if path.endswith("hang"):
            await asyncio.sleep(1000)
        return b"image"[start:end]


class AwayFileSystem(OtherMemory):
    """Refuses the next `failures` reads."""

    protocol = "away"
    failures = 0
    calls = 0

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        type(self).calls += 1
        if type(self).failures > 0:
            type(self).failures -= 1
            raise ConnectionResetError("away")
        return bytes(super().cat_file(path, start, end, **kwargs))


@pytest.fixture(autouse=True)
def _storages() -> Iterator[None]:
    for kind in (HangingFileSystem, HangingAsyncFileSystem, AwayFileSystem):
        fsspec.register_implementation(kind.protocol, kind, clobber=True)
    MemoryFileSystem.store.clear()
    HangingFileSystem.over.clear()
    AwayFileSystem.failures = AwayFileSystem.calls = 0
    yield
    HangingFileSystem.over.set()


@pytest.mark.parametrize("scheme", ["hanging", "hangingasync"])
def test_a_read_that_hangs_is_broken_off_on_every_storage(scheme: str) -> None:
    MemoryFileSystem.store.clear()
    fsspec.filesystem("memory").pipe_file("/b/fine", b"image")
    fsspec.filesystem("memory").pipe_file("/b/hang", b"image")
    config = FetchConfig(timeout_s=0.2, schemes=(scheme,))
    assert next(fetch_all([f"{scheme}://b/fine"], config, IMPATIENT)) == b"image"
    problem = next(fetch_all([f"{scheme}://b/hang"], config, RetryConfig(outage_s=0)))
    assert isinstance(problem, FetchProblem)
    assert (problem.error_type, problem.attempts) == ("fetch_failed", 1)
    assert "nothing within 0.2 s" in problem.message


def test_images_of_a_storage_that_is_away_are_waited_for_together() -> None:
    for n in range(6):
        fsspec.filesystem("memory").pipe_file(f"/b/{n}", b"%d" % n)
    uris = [f"away://b/{n}" for n in range(6)]
    config = FetchConfig(schemes=("away",), max_concurrent=1, attempts=1)
    AwayFileSystem.failures = 2
    assert list(fetch_all(uris, config, RetryConfig(outage_s=10))) == [b"%d" % n for n in range(6)]
    AwayFileSystem.failures, AwayFileSystem.calls = 10**9, 0
    found = list(fetch_all(uris, config, IMPATIENT))
    assert [problem.error_type for problem in found if isinstance(problem, FetchProblem)] == ["fetch_failed"] * 6
    assert AwayFileSystem.calls <= 3 + 5, "the first waits, the others try once"


def test_a_folder_on_a_storage_that_is_away_for_a_moment_loses_nothing() -> None:
    for n in range(12):
        fsspec.filesystem("memory").pipe_file(f"/pictures/{n:02d}.png", b"%d" % n)
    reader = ImageFolderReader(("away://pictures",), patience=RetryConfig(outage_s=10))
    (shard,) = reader.shards(()).shards
    AwayFileSystem.failures = 5
    found = list(reader.read(shard, reader.index(shard).samples))
    assert [raw.image for raw in found] == [b"%d" % n for n in range(12)]


@pytest.mark.parametrize("name", ["m.csv", "m.csv.gz", "m.CSV.GZ", "m.jsonl"])
def test_text_manifests_are_read_on_every_storage(name: str) -> None:
    memory = fsspec.filesystem("memory")
    text = b'{"uri": "x", "n": "1"}\n' if name == "m.jsonl" else b"uri,n\nx,1\n"
    memory.pipe_file(f"/b/{name}", gzip.compress(text) if name.lower().endswith(".gz") else text)
    memory.pipe_file("/b/x", b"image")
    reader = ManifestReader((f"memory://b/{name}",), fetch=FetchConfig(schemes=("memory",)))
    (shard,) = reader.shards(()).shards
    (raw,) = reader.read(shard, reader.index(shard).samples)
    assert (raw.image, raw.fields) == (b"image", {"uri": "x", "n": "1"})


@pytest.mark.parametrize("kind", ["manifest", "webdataset", "parquet", "images"])
def test_a_back_end_that_cannot_be_reached_is_one_sentence(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class UnreachableFileSystem(OtherMemory):
        protocol = "unreachable"

        def info(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("the hub says no")

        find = glob = info

    fsspec.register_implementation("unreachable", UnreachableFileSystem, clobber=True)
    source = SourceConfig(kind=kind, paths=("unreachable://b/m.csv",), retry=IMPATIENT)
    with pytest.raises(UserError, match=r"cannot .* 'unreachable://b/m.csv': RuntimeError: the hub says no"):
        make_reader(source).shards(())


def test_the_hub_without_a_network_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"hf://datasets/nobody/nothing/m.csv"):
        ManifestReader(("hf://datasets/nobody/nothing/m.csv",), patience=IMPATIENT).shards(())


@pytest.mark.parametrize("kind", ["webdataset", "webdataset.gz", "parquet", "images", "manifest"])
def test_a_file_over_the_cap_is_an_error_row_on_every_source(tmp_path: Path, kind: str) -> None:
    files = {"a.jpg": b"1" * 50, "b.jpg": b"2" * 5000, "c.jpg": b"3" * 100}
    kind, _, packed = kind.partition(".")
    if kind == "webdataset":
        path = write_tar(tmp_path / "in.tar", files.items())
        if packed:
            path = tmp_path / "in.tar.gz"
            path.write_bytes(gzip.compress((tmp_path / "in.tar").read_bytes()))
    elif kind == "parquet":
        path = tmp_path / "in.parquet"
        pq.write_table(pa.table({"image": list(files.values())}), path)
    else:
        for name, data in files.items():
            (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "in" / name).write_bytes(data)
        path = tmp_path / "in" if kind == "images" else tmp_path / "m.csv"
        (tmp_path / "m.csv").write_text("uri\nin/a.jpg\nin/b.jpg\nin/c.jpg\n")
    source = SourceConfig(kind=kind, paths=(str(path),), max_bytes=100, fetch={"max_bytes": 100}, retry=IMPATIENT)
    reader = make_reader(source)
    (shard,) = reader.shards(()).shards
    found = list(reader.read(shard, reader.index(shard).samples))
    assert [raw.image for raw in found] == [files["a.jpg"], None, files["c.jpg"]]
    assert (found[1].error_type, "max_bytes" in str(found[1].message)) == ("too_large", True)


def test_an_empty_object_is_empty_and_no_failure() -> None:
    """Object stores refuse to give a range of it."""

    class StrictFileSystem(OtherMemory):
        protocol = "strict"

        def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
            if end is not None and not self.store["/b/empty"].getvalue():
                raise OSError(errno.EINVAL, "the requested range cannot be satisfied")
            return bytes(super().cat_file(path, start, end, **kwargs))

    fsspec.register_implementation("strict", StrictFileSystem, clobber=True)
    fsspec.filesystem("memory").pipe_file("/b/empty", b"")
    assert next(fetch_all(["strict://b/empty"], FetchConfig(schemes=("strict",)), IMPATIENT)) == b""
