"""Text tables as people write them: dialects, encodings, lists, JSON arrays, and records that are broken or long."""

import bz2
import gzip
import json
import lzma
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import zstandard

from conf.errors import UserError
from conf.load import load_config
from conf.source import SourceConfig
from conf.table import TableConfig
from jobs.shared.job_arguments import kind_of
from pipeline.source.readers import RawSample, make_reader, manifest
from pipeline.source.readers.tables.text_tables import BadRecord, TextTable
from pipeline.source.shard_index import ShardIndex

IMAGE = b"image"


def read(path: Path, fields: tuple[str, ...] = ("*",), uri: str = "uri", **table: Any) -> list[RawSample]:
    source = SourceConfig(
        kind="manifest", paths=(str(path),), uri_column=uri, passthrough=fields, table=table, retry={"outage_s": 0}
    )
    reader = make_reader(source)
    found: list[RawSample] = []
    for shard in reader.shards(()).shards:
        contents = reader.index(shard)
        assert not contents.problems
        reader.spans(shard, ShardIndex(contents.samples, (), 4), [0])
        found += reader.read(shard, contents.samples)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "é.png", 'say "c".png', os.fsdecode(b"caf\xe9.png")):
        (tmp_path / name).write_bytes(IMAGE)
    return tmp_path


def write(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def kinds(found: list[RawSample]) -> list[str | None]:
    return [raw.error_type for raw in found]


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_a_tsv_without_a_header_whose_texts_hold_quotes(folder: Path, ending: bytes) -> None:
    lines = [b'a "quoted\tb.png', b'six feet 2"\ta.png', b'"\tsay "c".png']
    path = write(folder, "Train.tsv", ending.join(lines) + ending)
    found = read(path, columns=("caption", "uri"))
    assert [raw.image for raw in found] == [IMAGE] * 3
    assert [raw.fields["caption"] for raw in found] == ['a "quoted', 'six feet 2"', '"']
    with pytest.raises(UserError, match=r"if these are no names but data, name its columns: .*'\[column1, uri\]'"):
        read(write(folder, "cc.tsv", b"a cat\thttps://h/a.png\n"))


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({"delimiter": ";"}, 'uri;text\na.png;"x;\ny"\n'),
        ({"delimiter": "|", "quoting": False}, 'uri|text\na.png|x;"\n'),
        ({"columns": ("uri", "text"), "header": True}, "one,two\na.png,x\n"),
        ({"columns": ("uri", "text")}, "a.png,x\n"),
        ({"format": "tsv"}, "uri\ttext\na.png\tx\n"),
        ({}, ',uri,text\n0,a.png,"x\ry"\n'),  # as pandas writes an index
        ({}, "uri,text\na.png,x\0y\n"),
        ({}, "uri,text\na.png,x\ry\n"),
        ({}, f"uri,text\na.png,{'x' * 200_000}\n"),
    ],
)
def test_dialects(folder: Path, table: dict[str, Any], text: str) -> None:
    (raw,) = read(write(folder, "m.csv", text.encode()), **table)
    assert raw.image == IMAGE
    assert raw.fields["text"].startswith("x")


@pytest.mark.parametrize(
    ("written", "declared"),
    [
        ("utf-8", "auto"),
        ("utf-8-sig", "auto"),
        ("utf-16", "auto"),
        ("utf-32", "auto"),
        ("utf-16-be", "utf-16-be"),
        ("latin-1", "latin-1"),
        ("cp1252", "cp1252"),
        ("utf-8-sig", "utf-8"),
    ],
)
@pytest.mark.parametrize("name", ["m.csv", "m.jsonl", "m.json", "m.txt", "m.tsv.gz"])
def test_encodings(folder: Path, name: str, written: str, declared: str) -> None:
    text = {
        "m.csv": 'uri,text\né.png,"schön\n"\na.png,ß\n',
        "m.tsv.gz": "uri\ttext\né.png\tschön\na.png\tß\n",
        "m.jsonl": '{"uri": "é.png", "text": "schön"}\n{"uri": "a.png", "text": "ß"}\n',
        "m.json": '[{"uri": "é.png", "text": "schön"},\n{"uri": "a.png", "text": "ß"}]\n',
        "m.txt": "é.png\na.png\n",
    }[name]
    data = text.encode(written)
    found = read(write(folder, name, gzip.compress(data) if name.endswith(".gz") else data), encoding=declared)
    assert [raw.image for raw in found] == [IMAGE] * 2
    if name != "m.txt":
        assert [raw.fields["text"].strip() for raw in found] == ["schön", "ß"]


@pytest.mark.parametrize("name", ["m.csv", "m.csv.gz", "m.csv.zst"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
def test_compression_is_told_by_content_and_not_by_name(folder: Path, name: str, pack: Any) -> None:
    found = read(write(folder, name, pack(b"uri\na.png\nb.png\n")))
    assert [raw.image for raw in found] == [IMAGE] * 2


def test_bytes_that_are_not_of_the_encoding_are_carried(folder: Path) -> None:
    for name, data in {
        "m.csv": b"uri,text\ncaf\xe9.png,\xff\na.png,x\n",
        "m.jsonl": b'{"uri": "caf\xe9.png", "text": "\xff"}\n{"uri": "a.png", "text": "x"}\n',
        "m.txt": b"caf\xe9.png\na.png\n",
    }.items():
        found = read(write(folder, name, data))
        assert [raw.image for raw in found] == [IMAGE] * 2, name
        assert found[0].fields.get("text", "\udcff") == "\udcff"
    (raw,) = read(write(folder, "half.jsonl", b'{"uri": "\\ud83d.png"}\n'))
    assert raw.error_type == "bad_uri"
    assert "\\ud83d" in str(raw.message)


def test_odd_uris_cost_their_own_row(folder: Path) -> None:
    write(folder, "7", IMAGE)
    uris = [None, 7, 7.5, True, ["a.png"], {"a": 1}, "", "  ", " file://" + str(folder / "a.png") + " ", "a.png"]
    found = read(write(folder, "m.jsonl", b"\n".join(json.dumps({"uri": uri}).encode() for uri in uris)))
    bad = "no_uri"
    assert kinds(found) == [bad, None, bad, bad, bad, bad, bad, bad, None, None]
    assert "list" in str(found[4].message)


def test_a_list_of_uris(folder: Path) -> None:
    found = read(write(folder, "list.txt", b"\xef\xbb\xbfa.png\r\n\r\n  \nb.png\r\ngone.png, x"), uri="url")
    assert kinds(found) == [None, None, "missing_file"]
    assert [raw.fields for raw in found[:2]] == [{"url": "a.png"}, {"url": "b.png"}]
    assert kind_of([str(folder / "list.txt")]) == kind_of(["x.json"]) == kind_of(["s3://b/x.txt.gz"]) == "manifest"


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_json_arrays_hold_every_element(folder: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr("pipeline.source.readers.tables.record_places._BLOCK_BYTES", block)
    items = [
        {"uri": "a.png", "text": 'brackets ]}, "quotes\\", \\ and [lists', "more": {"list": [1, [2, {"x": "]"}]]}},
        {"uri": "b.png", "text": "é"},
        "a text, with a comma",
        [1, 2],
        7,
        None,
        {"uri": "a.png", "text": "end\\"},
    ]
    bad = "bad_record"
    for indent in (None, 2):
        found = read(write(folder, "m.json", json.dumps(items, indent=indent).encode()))
        assert kinds(found) == [None, None, bad, bad, bad, bad, None]
        assert found[0].fields == items[0]
    assert read(write(folder, "m.json", b" [ \n ] ")) == []
    cut = b'[{"uri": "a.png"}, {"uri": "b.p'
    assert kinds(read(write(folder, "m.json", cut))) == [None, bad]
    assert kinds(read(write(folder, "m.json", b'[{"uri": "a.png"},]'))) == [None]
    assert kinds(read(write(folder, "m.json", b'[{"uri": "a.png"}] and more'))) == [None, bad]
    assert kinds(read(write(folder, "m.json", b'[{"uri": "a.png"},,{"uri": "b.png"}]'))) == [None, bad, None]


def test_a_json_file_may_hold_lines_and_is_refused_otherwise(folder: Path) -> None:
    assert kinds(read(write(folder, "m.json", b'{"uri": "a.png"}\n{"uri": "b.png"}\n'))) == [None, None]
    assert kinds(read(write(folder, "m.json", b'{"uri": "a.png"}'))) == [None]
    for data in (b'{\n  "images": [\n{"uri": "a.png"}]\n}', b'"text"', b"uri\na.png\n"):
        with pytest.raises(UserError, match="neither an array of objects"):
            read(write(folder, "m.json", data))


@pytest.mark.parametrize("name", ["m.jsonl", "m.jsonl.gz", "m.json", "m.csv", "m.txt"])
def test_a_record_that_is_too_long_costs_itself_and_no_memory(folder: Path, name: str) -> None:
    long = b"x" * (40 << 20)
    data = {
        "m.csv": b"uri,n\na.png,1\n" + long + b",2\nb.png,3\n",
        "m.txt": b"a.png\n" + long + b"\nb.png\n",
        "m.json": b'[{"uri": "a.png"}, {"uri": "' + long + b'"}, {"uri": "b.png"}]',
    }.get(name.removesuffix(".gz"), b'{"uri": "a.png"}\n{"uri": "' + long + b'"}\n{"uri": "b.png"}\n')
    del long
    path = write(folder, name, gzip.compress(data, 1) if name.endswith(".gz") else data)
    del data
    tracemalloc.start()
    found = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert kinds(found) == [None, "bad_record", None]
    assert "source.table.max_record_bytes" in str(found[1].message)
    assert peak < 20 << 20


def test_a_quote_that_is_never_closed_costs_its_own_line(folder: Path) -> None:
    rows = b"".join(b"a.png,%d\n" % n for n in range(50))
    found = read(write(folder, "m.csv", b"uri,n\n" + rows + b'b.png,"2\n' + rows))
    assert kinds(found) == [None] * 50 + ["bad_record"] + [None] * 50
    found = read(write(folder, "m.csv", b"uri,n\n" + rows + b'b.png,"2\n' + rows + b'b.png,"3"\n'), max_record_bytes=99)
    assert kinds(found) == [None] * 50 + ["bad_record"] + [None] * 51


def test_wrong_settings_are_one_sentence() -> None:
    for setting, message in {
        "source.table.encoding=utf-7000": "no text encoding",
        "source.table.encoding=base64": "no text encoding",
        "source.table.delimiter=ab": "one character",
        "source.table.columns=[a,a]": "different names",
        "source.table.header=false": "set columns",
    }.items():
        with pytest.raises(UserError, match=message):
            load_config(None, ["paths=[x]", setting.removeprefix("source.")], SourceConfig)


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl.gz", "m.json", "m.txt", "m.parquet"])
def test_a_manifest_that_grows_keeps_its_shards(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setattr(manifest, "RECORDS_PER_SHARD", 10)

    def data(count: int, end: str = "\n") -> bytes:
        uris = [f"{n}.png" for n in range(count)]
        records = [json.dumps({"uri": uri}) for uri in uris]
        if name == "m.parquet":
            sink = pa.BufferOutputStream()
            pq.write_table(pa.table({"uri": uris}), sink)
            return bytes(sink.getvalue())
        lines = {"m.csv": ["uri", *uris], "m.txt": uris}.get(name, records)
        text = f"[{', '.join(records)}{end}]" if name == "m.json" else "\n".join(lines) + end
        return gzip.compress(text.encode()) if name.endswith(".gz") else text.encode()

    def shards(known: Any) -> Any:
        source = SourceConfig(kind="manifest", paths=(str(folder / name),))
        return make_reader(source).shards(known).shards

    def uris_of(found: Any) -> list[list[str]]:
        reader = make_reader(SourceConfig(kind="manifest", paths=(str(folder / name),), passthrough=("uri",)))
        return [[raw.fields["uri"] for raw in reader.read(s, reader.index(s).samples)] for s in found]

    write(folder, name, data(25, end=""))
    first = shards(())
    assert [shard.name for shard in first] == ["m-00000", "m-00001", "m-00002"]
    write(folder, name, data(25))
    assert [(s.name, s.weight) for s in shards(first)] == [(s.name, s.weight) for s in first]
    write(folder, name, data(38))
    second = shards(first)
    assert [(s.name, s.weight) for s in second[:3]] == [(s.name, s.weight) for s in first]
    ranges = ((0, 10), (10, 20), (20, 25), (25, 35), (35, 38))
    assert uris_of(second) == [[f"{n}.png" for n in range(begin, end)] for begin, end in ranges]
    write(folder, name, data(41))
    third = shards(second)
    assert [(s.name, s.weight) for s in third[:5]] == [(s.name, s.weight) for s in second]
    assert uris_of(third[5:]) == [["38.png", "39.png", "40.png"]]
    write(folder, name, data(24))
    assert [s.weight for s in shards(first)] != [s.weight for s in first]  # which check_plan refuses


def test_manifests_of_one_name_keep_theirs_when_more_come(folder: Path) -> None:
    def names(*paths: str, known: Any = ()) -> Any:
        source = SourceConfig(kind="manifest", paths=tuple(str(folder / path) for path in paths))
        return make_reader(source).shards(known).shards

    for part in ("b", "a", "c"):
        (folder / part).mkdir()
        write(folder / part, "m.csv", b"uri\nx\n")
    first = names("b/m.csv")
    second = names("a/m.csv", "b/m.csv", known=first)
    third = names("a/m.csv", "b/m.csv", "c/m.csv", known=second)
    by_url = [{shard.url: shard.name for shard in found} for found in (first, second, third)]
    assert list(by_url[0].values()) == ["m-00000"]
    assert by_url[0].items() < by_url[1].items() < by_url[2].items()
    assert len(set(by_url[2].values())) == 3


def test_the_header_is_found_wherever_the_chunk_begins(folder: Path) -> None:
    path = write(folder, "m.csv", b'"uri","a\nb"\na.png,1\n' + b"b.png,2\n" * 20_000)
    table = TextTable(str(path), "csv", TableConfig())
    places = list(table.places())
    last = next(iter(table.read(places[-1:])))
    assert last == {"uri": "b.png", "a\nb": "2"}
    assert len(places) == 20_001
    assert list(table.places(places[10].begin, places[12].begin)) == places[10:12]
    assert not any(isinstance(record, BadRecord) for record in table.read(places[::5000]))
