"""Shards on web servers that give no byte ranges, or drip: the first are read as streams, no request takes for ever."""

import gzip
import io
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.errors import UserError
from conf.source import SourceConfig
from pipeline.source.readers import RawSample, ReadFailure, make_reader
from pipeline.source.readers.fetching import files
from pipeline.source.readers.fetching.files import open_file

ENOUGH_S = 10.0
FILES = {f"/{name}.png": f"image {name}".encode() for name in "abc"}


def a_tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in FILES.items():
            header = tarfile.TarInfo(name.lstrip("/"))
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return stream.getvalue()


def a_parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"image": list(FILES.values())}), sink)
    return bytes(sink.getvalue())


MANIFEST = b"uri\n" + b"".join(name.encode() + b"\n" for name in FILES)
SHARDS = {
    "/m.csv": MANIFEST,
    "/m.csv.gz": gzip.compress(MANIFEST),
    "/m.tar": a_tar(),
    "/m.tar.gz": gzip.compress(a_tar()),
    "/m.parquet": a_parquet(),
}


@contextmanager
def serving(*, ranges: bool = False, length: bool = True, drip: bool = False) -> Iterator[str]:
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = (FILES | SHARDS)[self.path]
            asked = self.headers.get("Range", "")
            if ranges and asked:
                first, last = (int(text) for text in asked.removeprefix("bytes=").split("-"))
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{min(last, len(data) - 1)}/{len(data)}")
                data = data[first : last + 1]
            else:
                self.send_response(200)
            if length:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "HEAD":
                return
            with suppress(OSError):
                for at in range(0, len(data), 1 if drip else len(data)):
                    self.wfile.write(data[at : at + 1] if drip else data)
                    self.wfile.flush()
                    if drip and over.wait(0.1):
                        return

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        fsspec.filesystem("http").invalidate_cache()


def read(url: str) -> list[RawSample]:
    kind = {"csv": "manifest", "tar": "webdataset", "parquet": "parquet"}[url.removesuffix(".gz").rsplit(".", 1)[-1]]
    reader = make_reader(SourceConfig(kind=kind, paths=(url,), retry={"outage_s": 0}, fetch={"attempts": 1}))
    found: list[RawSample] = []
    for shard in reader.shards(()).shards:
        contents = reader.index(shard)
        if contents.problems:
            raise ReadFailure(contents.problems[0].message)
        found += reader.read(shard, contents.samples)
    return found


@pytest.mark.parametrize("name", ["/m.csv", "/m.csv.gz", "/m.tar", "/m.tar.gz"])
@pytest.mark.parametrize("length", [True, False])
def test_servers_without_byte_ranges_are_read_from_the_beginning(name: str, length: bool) -> None:
    with serving(length=length) as url:
        assert [raw.image for raw in read(url + name)] == list(FILES.values())


@pytest.mark.parametrize("name", SHARDS)
def test_servers_with_byte_ranges(name: str) -> None:
    with serving(ranges=True) as url:
        assert [raw.image for raw in read(url + name)] == list(FILES.values())
        with open_file(fsspec.filesystem("http"), url + name) as stream:
            assert stream.seekable()
            assert stream.read(3) == SHARDS[name][:3]
            stream.seek(-4, io.SEEK_END)
            assert stream.read() == SHARDS[name][-4:]


@pytest.mark.parametrize("name", SHARDS)
@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_that_drips_is_one_that_is_away(name: str, ranges: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "REQUEST_S", 0.4)
    with serving(ranges=ranges, drip=True) as url:
        start_s = time.monotonic()
        with pytest.raises((ReadFailure, UserError)):
            read(url + name)
        assert time.monotonic() - start_s < ENOUGH_S
