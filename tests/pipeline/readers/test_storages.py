"""Manifests and their images on storages of every kind: known to smart_open or not, slow, away for a while, or gone."""

import asyncio
import gzip
import threading
from collections.abc import Iterator
from typing import Any

import fsspec
import pytest
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from conf.errors import UserError
from conf.schema import FetchConfig, RetryConfig, SourceConfig
from pipeline.readers import make_reader
from pipeline.readers.fetch import FetchProblem, fetch, fetch_all
from pipeline.readers.images import ImageFolderReader
from pipeline.readers.manifest import ManifestReader
from pipeline.retrying import Patient

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
    assert fetch(f"{scheme}://b/fine", config, Patient(IMPATIENT)) == b"image"
    problem = fetch(f"{scheme}://b/hang", config, Patient(RetryConfig(outage_s=0)))
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
    (shard,) = reader.shards({})
    AwayFileSystem.failures = 5
    found = list(reader.read(shard, reader.index(shard)[0]))
    assert [raw.image for raw in found] == [b"%d" % n for n in range(12)]


@pytest.mark.parametrize("name", ["m.csv", "m.csv.gz", "m.CSV.GZ", "m.jsonl"])
def test_text_manifests_are_read_where_smart_open_does_not_know_the_scheme(name: str) -> None:
    memory = fsspec.filesystem("memory")
    text = b'{"uri": "x", "n": "1"}\n' if name == "m.jsonl" else b"uri,n\nx,1\n"
    memory.pipe_file(f"/b/{name}", gzip.compress(text) if name.lower().endswith(".gz") else text)
    memory.pipe_file("/b/x", b"image")
    reader = ManifestReader((f"memory://b/{name}",), fetch=FetchConfig(schemes=("memory",)))
    (shard,) = reader.shards({})
    (raw,) = reader.read(shard, reader.index(shard)[0])
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
        make_reader(source).shards({})


def test_the_hub_without_a_network_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"hf://datasets/nobody/nothing/m.csv"):
        ManifestReader(("hf://datasets/nobody/nothing/m.csv",), patience=IMPATIENT).shards({})
