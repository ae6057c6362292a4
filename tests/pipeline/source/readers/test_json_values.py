"""JSON of other people: whatever is wrong with it is one BadJson, and what Python writes is read."""

import codecs
import json
from pathlib import Path

import pytest

from conf.source import SourceConfig
from pipeline.source.readers import make_reader
from pipeline.source.readers.tables.json_values import MAX_JSON_BYTES, BadJson, parse_json


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 50_000 + b"]" * 50_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b"[" * 400 + b"]" * 400,
        b"1" * 5000,
        b"\xff\xfe\xfa",
        b'{"a": "\xe9"}',
        b"",
        b"{oops",
        b" " * (MAX_JSON_BYTES + 1),
    ],
    ids=["lists", "objects", "four hundred", "number", "bytes", "latin-1", "empty", "no json", "large"],
)
def test_what_is_no_value_is_one_short_line(data: bytes) -> None:
    with pytest.raises(BadJson) as caught:
        parse_json(data)
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


def test_odd_but_readable_json_is_read() -> None:
    assert parse_json(codecs.BOM_UTF8 + b'{"a": 1}') == {"a": 1}
    assert parse_json('{"é": 1}'.encode("utf-16")) == {"é": 1}
    assert parse_json(b'{"a": NaN, "b": [-Infinity], "a2": 1e5}') == {"a": None, "b": [None], "a2": 1e5}
    assert parse_json(b'{"a": 1, "a": 2}') == {"a": 2}
    assert parse_json(b"123456789012345678901234567890") == 123456789012345678901234567890
    assert parse_json(json.dumps([[n] for n in range(1000)]).encode())[-1] == [999]
    deep = b"[" * 150 + b"]" * 150
    assert json.dumps(parse_json(deep)).encode() == deep


@pytest.mark.parametrize("bad", [b"[" * 50_000 + b"]" * 50_000, b'{"uri": ' * 50_000, b'{"n": ' + b"1" * 5000 + b"}"])
def test_a_line_that_cannot_be_parsed_costs_its_own_record(tmp_path: Path, bad: bytes) -> None:
    lines = [b'{"uri": "%d.png", "file_name": "%d.png", "q": %d}' % (n, n, n) for n in range(6)]
    lines[3] = bad
    (tmp_path / "metadata.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    for n in range(6):
        (tmp_path / f"{n}.png").write_bytes(b"image %d" % n)
    for kind, path in (("manifest", tmp_path / "metadata.jsonl"), ("images", tmp_path)):
        reader = make_reader(SourceConfig(kind=kind, paths=(str(path),), passthrough=("q",)))
        (shard,) = reader.shards(()).shards
        found = list(reader.read(shard, reader.index(shard).samples))
        assert [raw.image for n, raw in enumerate(found) if n != 3] == [b"image %d" % n for n in (0, 1, 2, 4, 5)]
        assert [raw.fields["q"] for n, raw in enumerate(found) if n != 3] == [0, 1, 2, 4, 5]
