"""Storage that fails at any single request, of the source or of the output, costs no row that was done before."""

import contextlib
import io
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.errors import Explained
from conf.schema import JobConfig
from pipeline.source.retrying import Exhausted
from tests.flaky import Fuse, OutputFileSystem, SourceFileSystem, flaky_storages
from tests.pipeline.small_run import done_rows, error_rows, small_run
from tests.shards import image_bytes

NUM_ROWS, GOOD = 6, 4  # the last rows cannot be had the first time
IMAGES = [image_bytes((9 * n, 8 * n, 7 * n), (4, 4)) for n in range(NUM_ROWS)]
SOURCE, OUTPUT = SourceFileSystem.fuse, OutputFileSystem.fuse
FAILURES = (OSError, Explained, Exhausted)


@pytest.fixture(autouse=True)
def _storages() -> Iterator[None]:
    with flaky_storages():
        yield


def put(path: str, data: bytes) -> None:
    fsspec.filesystem("source").pipe_file(path, data)


def write_tar() -> str:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number, data in enumerate(IMAGES):
            header = tarfile.TarInfo(f"{number}.png")
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    put("/in/a.tar", buffer.getvalue())
    return "source://in/*.tar"


def write_parquet() -> str:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": IMAGES}), buffer, row_group_size=2)
    put("/in/a.parquet", buffer.getvalue())
    return "source://in/*.parquet"


def write_folder() -> str:
    for number, data in enumerate(IMAGES):
        put(f"/in/a/{number}.png", data)
    return "source://in/a"


def write_manifest() -> str:
    write_folder()
    put("/in/a.csv", "\n".join(["uri", *(f"a/{n}.png" for n in range(NUM_ROWS))]).encode())
    return "source://in/a.csv"


WRITE: dict[str, Callable[[], str]] = {
    "webdataset": write_tar,
    "parquet": write_parquet,
    "images": write_folder,
    "manifest": write_manifest,
}


def config_for(kind: str, path: str, **output: Any) -> JobConfig:
    fetch = {"schemes": ["source"], "max_concurrent": 1}
    source = {"kind": kind, "paths": [path], "chunk_rows": 2, "retry": {"outage_s": 0}, "fetch": fetch}
    values = {"source": source, "model": {"checkpoint": "c"}, "output": {"path": "output://run", **output}}
    return JobConfig.model_validate(values)


def half_done(kind: str) -> JobConfig:
    """A finished run in which the source was away towards its end: some rows are done, some are errors."""
    config = config_for(kind, WRITE[kind]())
    done = 0

    def then_away(*_: Any) -> None:
        nonlocal done
        done += 1
        if done == GOOD // 2:
            SOURCE.set(0)

    small_run(config, on_chunk=then_away)
    SOURCE.mend()
    assert len(done_rows("output://run")) == GOOD
    assert len(error_rows("output://run")) == NUM_ROWS - GOOD
    return config_for(kind, config.source.paths[0], retry_errors="all")


def failing_anywhere(config: JobConfig, fuse: Fuse, kind: str, *, for_good: bool) -> Iterator[str]:
    """The run with the n-th request failing, for every n there is; what was done is put back each time."""
    before = {name: file.getvalue() for name, file in OutputFileSystem.store.items()}
    for at in range(1000):
        OutputFileSystem.store.clear()
        for name, data in before.items():
            fsspec.filesystem("output").pipe_file(name, data)
        fuse.set(at, kind, for_good=for_good)
        with contextlib.suppress(FAILURES):
            small_run(config)
        burnt = fuse.burnt
        fuse.mend()
        if not burnt:
            assert at >= 3, "a run asks for more than that"
            return
        yield f"request {at}"


@pytest.mark.parametrize(("failure", "for_good"), [("away", False), ("away", True), ("gone", True)])
@pytest.mark.parametrize("kind", WRITE)
def test_a_retry_whose_source_fails_anywhere_keeps_what_was_done(kind: str, failure: str, for_good: bool) -> None:
    config = half_done(kind)
    before = done_rows("output://run")
    for place in failing_anywhere(config, SOURCE, failure, for_good=for_good):
        now, errors = done_rows("output://run"), error_rows("output://run")
        assert before.items() <= now.items(), place
        assert len(now) + len([name for name in errors if "/" in name]) == NUM_ROWS, place
        small_run(config)
        assert (len(done_rows("output://run")), error_rows("output://run")) == (NUM_ROWS, {}), place


def test_a_retry_whose_output_fails_anywhere_keeps_what_was_done() -> None:
    config = half_done("webdataset")
    before = done_rows("output://run")
    for place in failing_anywhere(config, OUTPUT, "refused", for_good=False):
        assert before.items() <= done_rows("output://run").items(), place
        small_run(config)
        assert (len(done_rows("output://run")), error_rows("output://run")) == (NUM_ROWS, {}), place


@pytest.mark.parametrize("kind", WRITE)
def test_a_source_that_grows_while_storage_fails_keeps_what_was_done(kind: str) -> None:
    """As much again comes later; for folders the output fails as well."""
    config = config_for(kind, WRITE[kind]())
    small_run(config)
    before = done_rows("output://run")
    for name, file in list(SourceFileSystem.store.items()):
        if name.startswith("/in/"):
            put(f"/in/a/new{name[3:]}" if kind == "images" else name.replace("/in/a.", "/in/b."), file.getvalue())
    paths = config.source.paths if "*" in config.source.paths[0] or kind == "images" else ("source://in/*.csv",)
    config = config_for(kind, paths[0])
    fuses = [SOURCE, OUTPUT] if kind == "images" else [SOURCE]
    for fuse in fuses:
        for place in failing_anywhere(config, fuse, "away", for_good=fuse is SOURCE):
            assert before.items() <= done_rows("output://run").items(), place
            small_run(config_for(kind, paths[0], retry_errors="all"))
            assert (len(done_rows("output://run")), error_rows("output://run")) == (2 * NUM_ROWS, {}), place
