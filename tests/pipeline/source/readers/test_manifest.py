"""Manifests in every format give the same samples; images come by file, by path beside the manifest, or over HTTP."""

import bz2
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from conf.errors import UserError
from conf.source import FetchConfig, RetryConfig
from pipeline.source.plan import Contents
from pipeline.source.readers import RawSample, manifest
from pipeline.source.readers.fetching.fetch import fetch_all
from pipeline.source.readers.fetching.uris import absolute
from pipeline.source.readers.fetching.web import FetchProblem
from pipeline.source.readers.manifest import ManifestReader
from pipeline.source.shard_index import ShardIndex
from tests.site import Site, cut_short, drip, failing_first, reset, running_site, send

NUM_ROWS = 25
IMPATIENT = RetryConfig(outage_s=0.5)
QUICK = FetchConfig(timeout_s=1.0, max_bytes=1000, max_concurrent=4)


def fetch(uri: str, config: FetchConfig) -> bytes | FetchProblem:
    return next(fetch_all([uri], config, IMPATIENT))


@pytest.fixture
def site() -> Iterator[Site]:
    with running_site() as running:
        yield running


def rows() -> list[dict[str, Any]]:
    return [
        {"uri": f"pictures/{n}.png", "question": f'he said "{n}",\nthen left' if n % 3 else f"plain {n}", "n": str(n)}
        for n in range(NUM_ROWS)
    ]


def as_csv(items: list[dict[str, Any]]) -> bytes:
    import csv
    import io

    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(items[0]))
    writer.writeheader()
    writer.writerows(items)
    return text.getvalue().encode()


def as_jsonl(items: list[dict[str, Any]]) -> bytes:
    return b"\n\n".join(json.dumps(item).encode() for item in items)


def as_parquet(items: list[dict[str, Any]]) -> bytes:
    stream = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(items), stream, row_group_size=7)
    return stream.getvalue().to_pybytes()


def read_all(reader: ManifestReader) -> list[RawSample]:
    return [raw for shard in reader.shards(()).shards for raw in reader.read(shard, reader.index(shard).samples)]


@pytest.mark.parametrize(
    ("name", "encode"),
    [
        ("m.csv", as_csv),
        ("m.tsv", lambda items: as_csv(items).replace(b",", b"\t")),
        ("m.csv.gz", lambda items: gzip.compress(as_csv(items))),
        ("m.csv.bz2", lambda items: bz2.compress(as_csv(items))),
        ("m.jsonl", as_jsonl),
        ("m.jsonl.zst", lambda items: zstandard.compress(as_jsonl(items))),
        ("m.parquet", as_parquet),
    ],
)
def test_every_format_gives_the_same_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, encode: Callable[[list[dict[str, Any]]], bytes]
) -> None:
    monkeypatch.setattr(manifest, "RECORDS_PER_SHARD", 10)
    items = rows()
    if name == "m.tsv":
        items = [{**item, "question": f"plain {item['n']}"} for item in items]
    (tmp_path / name).write_bytes(encode(items))
    for n in range(NUM_ROWS):
        path = tmp_path / "pictures" / f"{n}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"image %d" % n)
    reader = ManifestReader((f"{tmp_path}/{name}",), fields=("question", "n"))
    shards = reader.shards(()).shards
    assert [shard.name for shard in shards] == ["m-00000", "m-00001", "m-00002"]
    found = read_all(reader)
    assert [raw.image for raw in found] == [b"image %d" % n for n in range(NUM_ROWS)]
    assert [raw.fields for raw in found] == items
    contents = reader.index(shards[1])
    samples, problems = contents.samples, contents.problems
    assert ([s.key for s in samples], problems) == ([f"{n:08d}" for n in range(10)], ())
    assert [raw.fields["n"] for raw in reader.read(shards[1], samples[4:6])] == ["14", "15"]
    index = ShardIndex(tuple(samples), (), 4)
    together = name.endswith((".gz", ".bz2", ".zst"))
    assert reader.spans(shards[1], index, [0, 2]) == ([[0, 2]] if together else [[0], [2]])


def test_bad_records_cost_only_themselves(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"image")
    lines = [b'{"uri": "x"}', b"{broken", b"[1]", b'{"other": 1}', b'{"uri": "gone"}', b'{"uri": "x"}']
    (tmp_path / "m.jsonl").write_bytes(b"\n".join(lines))
    found = read_all(ManifestReader((f"{tmp_path}/m.jsonl",)))
    assert [raw.error_type for raw in found] == [None, "bad_record", "bad_record", "no_uri", "missing_file", None]
    assert "no 'uri' in this record; source.uri_column names the column" in str(found[3].message)
    assert str(tmp_path / "gone") in str(found[4].message)
    (tmp_path / "m.csv").write_bytes(b"uri,n\nx,1\nx,1,2\nx\n\n,3\nx,4\n")
    found = read_all(ManifestReader((f"{tmp_path}/m.csv",)))
    assert [raw.error_type for raw in found] == [None, "bad_record", "bad_record", "no_uri", None]


@pytest.mark.parametrize(("name", "data"), [("m.csv", b"uri,n\n"), ("m.csv", b""), ("m.jsonl", b"\n")])
def test_an_empty_manifest_is_an_empty_shard_or_a_clear_refusal(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    reader = ManifestReader((f"{tmp_path}/{name}",))
    if data or name != "m.csv":
        (shard,) = reader.shards(()).shards
        assert reader.index(shard) == Contents()
    else:
        with pytest.raises(UserError, match="uri_column"):
            reader.shards(())


def test_a_users_mistakes_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(b"url,n\nx,1\n")
    (tmp_path / "m.xlsx").write_bytes(b"x")
    with pytest.raises(UserError, match=r"source\.uri_column='uri' is no column of .*, which has url, n"):
        ManifestReader((f"{tmp_path}/m.csv",)).shards(())
    with pytest.raises(UserError, match="cannot tell the format"):
        ManifestReader((f"{tmp_path}/m.xlsx",)).shards(())
    (tmp_path / "m.csv.gz").write_bytes(gzip.compress(b"uri,n")[:10])
    with pytest.raises(UserError, match="cannot read manifest"):
        ManifestReader((f"{tmp_path}/m.csv.gz",)).shards(())


def test_paths_are_beside_the_manifest() -> None:
    assert absolute("a/b.jpg", "s3://bucket/x/m.csv") == "s3://bucket/x/a/b.jpg"
    assert absolute("/a/b.jpg", "/x/m.csv") == "/a/b.jpg"
    assert absolute("https://h/a.jpg", "/x/m.csv") == "https://h/a.jpg"


@pytest.mark.parametrize(
    ("fail", "hits"),
    [
        (lambda handler: send(handler, 500), 3),
        (lambda handler: send(handler, 503, Retry_After="0"), 3),
        (lambda handler: send(handler, 429, Retry_After="0"), 3),
        (cut_short, 3),
        (reset, 3),
    ],
)
def test_a_server_that_fails_twice_is_asked_a_third_time(site: Site, fail: Any, hits: int) -> None:
    site.pages["/a"] = failing_first(2, fail, b"image")
    assert fetch(f"{site.url}/a", QUICK) == b"image"
    assert site.hits["/a"] == hits


@pytest.mark.parametrize(
    ("page", "error_type", "hits"),
    [
        (lambda handler: send(handler, 500), "fetch_failed", 2),
        (lambda handler: send(handler, 403), "not_allowed", 1),
        (lambda handler: send(handler, 404), "missing_file", 1),
        (lambda handler: send(handler, 418), "fetch_failed", 1),
        (drip, "fetch_failed", 2),
        (b"x" * 5000, "too_large", 1),
    ],
)
def test_what_does_not_get_better_is_a_problem_with_the_uri(site: Site, page: Any, error_type: str, hits: int) -> None:
    site.pages["/a"] = page
    problem = fetch(f"{site.url}/a", FetchConfig(timeout_s=1.0, max_bytes=1000, attempts=2))
    assert isinstance(problem, FetchProblem)
    assert (problem.error_type, problem.attempts, site.hits["/a"]) == (error_type, hits, hits)
    assert f"{site.url}/a" in problem.message


def test_only_allowed_schemes_are_opened(site: Site, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    web_only = FetchConfig(schemes=("http",))
    for uri in (str(tmp_path / "secret"), f"file://{tmp_path}/secret", "ftp://h/x"):
        problem = fetch(uri, web_only)
        assert isinstance(problem, FetchProblem)
        assert problem.error_type == "forbidden_scheme"
    site.pages["/a"] = lambda handler: send(handler, 302, Location="file:///etc/hostname")
    assert isinstance(fetch(f"{site.url}/a", QUICK), FetchProblem)


def test_many_are_fetched_at_once_and_come_in_order(site: Site) -> None:
    for n in range(50):
        site.pages[f"/{n}"] = b"image %d" % n
    found = list(fetch_all([f"{site.url}/{n}" for n in range(60)], QUICK, IMPATIENT))
    assert found[:50] == [b"image %d" % n for n in range(50)]
    assert [type(item) for item in found[50:]] == [FetchProblem] * 10
