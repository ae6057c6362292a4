"""Sources and outputs on an S3-compatible server, through a proxy that delays, refuses, resets and cuts answers."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs

from conf.checkpoint_info import read_checkpoint_info
from conf.errors import UserError
from conf.source import RetryConfig, SourceConfig
from jobs.bench.faults import Faults
from jobs.bench.s3 import BUCKET, Server, s3_server
from pipeline.output.lease import Lease, LeaseLost, OutputBusy, claim_name, here
from pipeline.output.storage import Storage
from pipeline.run import run
from pipeline.source.readers import make_reader, read_patiently
from tests.integration.corpus import fake_spec, make_config
from tests.integration.ray_nodes import fresh_ray
from tests.shards import image_bytes, write_shards

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

BROKEN = ("truncated", "empty", "text")
TIMES = {"queue_wait_s", "encode_s", "ttft_s", "decode_s", "e2e_s", "device_s"}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with s3_server(Faults(seed=1)) as running:
        yield running


@pytest.fixture
def stormy(server: Server) -> Iterator[Server]:
    faults = server.faults
    faults.latency_s, faults.error_500, faults.error_503, faults.reset, faults.truncate = 0.02, 0.05, 0.05, 0.05, 0.05
    faults.counts.clear()
    yield server
    faults.calm()


def test_files_on_a_stormy_store_are_whole_or_absent(stormy: Server) -> None:
    storage = Storage(f"{stormy.url}/files")
    table = pa.table({"n": list(range(1000))})
    for number in range(40):
        storage.write(f"a/{number}", b"%d" % number * 10_000)
    storage.write_table("t.parquet", table.replace_schema_metadata({"k": "v"}))
    assert sorted(map(int, storage.names("a"))) == list(range(40))
    assert [storage.read(f"a/{number}") for number in range(40)] == [b"%d" % number * 10_000 for number in range(40)]
    assert (storage.read_table("t.parquet"), storage.read_metadata("t.parquet")[b"k"]) == (table, b"v")
    with pytest.raises(FileNotFoundError):
        storage.read("a/none")
    storage.remove_folder("a")
    assert storage.walk("") == ["t.parquet"]
    assert {"error_500", "error_503", "truncate"} < set(stormy.faults.counts)


def test_one_of_many_creators_wins_and_one_run_holds_the_output(server: Server) -> None:
    storage = Storage(f"{server.url}/lease")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: storage.create("x", b"%d" % n), range(8)))
    assert won.count(True) == 1
    assert storage.read("x") == b"%d" % won.index(True)
    with Lease(storage), pytest.raises(UserError, match="is being written by process"), Lease(storage):
        pass
    with Lease(storage):
        pass
    dead = json.dumps({"owner": "x", **here(), "pid": 2**22 + 1, "process_start": "1", "beat_s": 1.0}).encode()

    def contend(url: str) -> Lease | None:
        try:
            return Lease(Storage(url)).__enter__()
        except OutputBusy:
            return None

    with ThreadPoolExecutor(4) as pool:
        for turn in range(10):
            output = Storage(f"{server.url}/lease-{turn}")
            output.write(claim_name(1), dead)
            winners = [lease for lease in pool.map(contend, [output.url] * 4) if lease is not None]
            assert len(winners) == 1, f"round {turn}"
            winners[0].storage.write("x", b"1")
            output.write(claim_name(3), dead)
            with pytest.raises(LeaseLost):
                winners[0].storage.write("x", b"2")
            assert output.read("x") == b"1"
            winners[0].__exit__(None, None, None)


@pytest.mark.parametrize("kind", ["webdataset", "parquet", "images", "manifest"])
def test_every_source_reads_the_same_from_disk_and_from_a_stormy_store(
    tmp_path: Path, stormy: Server, kind: str
) -> None:
    folder = tmp_path / kind
    pictures = {f"{n}.png": image_bytes((n, n, n)) for n in range(6)}
    folder.mkdir()
    if kind == "webdataset":
        write_shards(folder, 2, 5)
    elif kind == "parquet":
        rows = [{"image": {"bytes": data, "path": name}, "q": name} for name, data in pictures.items()]
        pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet", row_group_size=2)
    else:
        for name, data in pictures.items():
            (folder / name).write_bytes(data)
        name, column = ("metadata.csv", "file_name") if kind == "images" else ("m.csv", "uri")
        (folder / name).write_text("\n".join([f"{column},q", *(f"{name},{name}" for name in pictures)]))
    stormy.direct.put(str(folder), f"{BUCKET}/source-{kind}", recursive=True)

    def read(root: str) -> list[Any]:
        pattern = {"webdataset": "/*.tar", "parquet": "/*.parquet", "images": "", "manifest": "/*.csv"}[kind]
        reader = make_reader(SourceConfig(kind=kind, paths=(root + pattern,), passthrough=("*",)))
        return [
            (raw.sample.key, raw.image, raw.fields)
            for shard in reader.shards(()).shards
            for raw in reader.read(shard, reader.index(shard).samples)
        ]

    stormy.faults.truncate = stormy.faults.reset = 0.0  # the reader is asked again by its caller, which is not here
    local, remote = read(str(folder)), read(f"{stormy.url}/source-{kind}")
    assert len(local) == (10 if kind == "webdataset" else 6)
    assert all(image for _, image, _ in local)
    assert remote == local


def test_a_storage_that_is_away_for_longer_than_its_client_tries_is_waited_for(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # the clients would wait for some ten seconds themselves
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    s3fs.S3FileSystem.clear_instance_cache()
    write_shards(tmp_path / "in", 1, 6)
    server.direct.put(f"{tmp_path}/in", f"{BUCKET}/away/in", recursive=True)
    reader = make_reader(SourceConfig(paths=(f"{server.url}/away/in/*.tar",)))
    (shard,) = reader.shards(()).shards
    samples = reader.index(shard).samples
    server.faults.reset = 1.0
    threading.Timer(5.0, server.faults.calm).start()
    found = list(read_patiently(reader, shard, samples, RetryConfig()))
    assert len([raw for raw in found if raw.image]) == 6
    assert any(message.startswith(f"reading {shard.url} failed (") for message in caplog.messages)
    s3fs.S3FileSystem.clear_instance_cache()


def test_the_same_run_on_disk_and_on_a_stormy_store_gives_identical_tables(tmp_path: Path, stormy: Server) -> None:
    write_shards(tmp_path / "in", 3, 40, BROKEN)
    stormy.direct.put(f"{tmp_path}/in", f"{BUCKET}/run/in", recursive=True)
    local = make_config(tmp_path)
    remote = make_config(
        tmp_path, source={"paths": [f"{stormy.url}/run/in/*.tar"]}, output={"path": f"{stormy.url}/run/out"}
    )
    info = read_checkpoint_info(local.model.checkpoint)
    with fresh_ray():
        here, there = run(local, info, fake_spec(local)), run(remote, info, fake_spec(remote))
        assert here["counts"] == there["counts"]
        assert there["counts"]["rows_ok"] == 120
        stormy.faults.calm()
        assert run(remote, info, fake_spec(remote)) == there
    for folder in ("results", "errors"):
        for name in ("part-000", "part-001", "part-002"):
            table = pq.read_table(tmp_path / "out" / folder / f"{name}.parquet")
            twin = pq.read_table(f"{BUCKET}/run/out/{folder}/{name}.parquet", filesystem=stormy.direct)
            columns = [column for column in table.schema.names if column not in TIMES]
            assert twin.select(columns) == table.select(columns)
    left = {path.removeprefix(f"{BUCKET}/run/out/").split("/")[0] for path in stormy.direct.find(f"{BUCKET}/run/out")}
    assert left == {"_state", "engine_stats", "errors", "results", "run.json"}
    assert stormy.faults.counts["error_503"] > 0


def test_a_source_that_is_not_there_or_not_ours_is_one_sentence(server: Server) -> None:
    for path, message in ((f"{server.url}/none.tar", "shard not found"), ("s3://nobody/*.tar", "no shard matches")):
        with pytest.raises(UserError, match=message):
            make_reader(SourceConfig(paths=(path,))).shards(())
