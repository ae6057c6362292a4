"""Exports of odd rows: whatever is in a key, a text or a source column, an export is whole and can be read back."""

import csv
import datetime
import decimal
import errno
import json
import tarfile
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.json as arrow_json
import pytest

from conf.errors import UserError
from conf.source import SourceConfig
from jobs import cli
from pipeline.exports import Exported, Form, Options, Published, export
from pipeline.output.ledger import RUN_NAME, save_plan
from pipeline.output.publish import publish_shard
from pipeline.output.staging import rows_table, save_index, stage_chunk
from pipeline.output.storage import Storage
from pipeline.source.plan import Sample
from pipeline.source.readers import make_reader
from pipeline.source.shard_index import ShardIndex
from pipeline.tables import Passthrough
from pipeline.text import storable
from tests.shards import image_bytes, write_tar

TEXTS = [
    "a\rb", "a\r\nb", "\r", "\n", 'say "a,b"', "nul\0", "\x1c\x85\u2028", "\ufeffx", " x ", "", "'", "=1+1", "-1", "@x",
    "\t=x", "+1", storable("half \ud83d"), "ä",
]  # fmt: skip
UTC, DAY = datetime.timezone.utc, datetime.date(2024, 2, 29)


def make_run(root: Path, rows: list[dict[str, Any]], passthrough: Passthrough = ()) -> str:
    """The output of a run with one shard of these rows; what they lack has a usual value."""
    storage = Storage(f"{root}/run")
    usual = {"shard": "s", "prompt_index": 0, "num_prompts": 1, "prompt": "?", "width": 9, "height": 9}
    rows = [
        {**usual, "row": n, "sample_id": f"s/{row.get('key', n)}", "key": str(n), **row} for n, row in enumerate(rows)
    ]
    samples = {row["row"]: Sample(row["row"], row["key"], ()) for row in rows}
    save_index(storage, "s", ShardIndex(tuple(samples.values()), (), 1000))
    stage_chunk(storage, "s", 0, rows_table(rows, passthrough))
    assert publish_shard(storage, "s", passthrough).counts is not None
    storage.write(RUN_NAME, json.dumps({"status": "complete", "config": {"source": {}}}).encode())
    return storage.url


def write(run: str, form: Form, out: Path, **options: Any) -> Exported:
    return export(Published(run), form, str(out), Options(**options))


def test_every_csv_reads_back_with_equal_rows(tmp_path: Path) -> None:
    run = make_run(tmp_path, [{"text": text} for text in TEXTS])
    write(run, Form.CSV, tmp_path / "a.csv", columns=("key", "text"))
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as stream:
        assert [row["text"] for row in csv.DictReader(stream)] == TEXTS
    for engine in ("c", "python", "pyarrow"):
        frame = pd.read_csv(tmp_path / "a.csv", keep_default_na=False, dtype=str, engine=engine)
        assert list(frame["text"]) == TEXTS
    table = arrow_csv.read_csv(tmp_path / "a.csv", parse_options=arrow_csv.ParseOptions(newlines_in_values=True))
    assert table["text"].to_pylist() == TEXTS


def test_formulas_are_counted_and_neutralised_when_asked(tmp_path: Path) -> None:
    columns = [pa.field("price", pa.decimal128(5, 2))]
    rows = [{"text": text, "src_price": decimal.Decimal("-1.50")} for text in TEXTS]
    run = make_run(tmp_path, rows, columns)
    plain = write(run, Form.CSV, tmp_path / "a.csv")
    assert plain.notes[0].startswith("7 cells begin like a formula")
    write(run, Form.CSV, tmp_path / "b.csv", columns=("text", "src_price"), neutralise_formulas=True)
    with (tmp_path / "b.csv").open(encoding="utf-8", newline="") as stream:
        cells = list(csv.reader(stream))[1:]
    assert {price for _, price in cells} == {"-1.50"}, "a number is none"
    live = {"\r", "\n", "=1+1", "-1", "@x", "\t=x", "+1"}
    assert [text for text, _ in cells] == [f"'{text}" if text in live else text for text in TEXTS]


def test_typed_columns_are_iso_text_and_base64(tmp_path: Path) -> None:
    nested = pa.struct([("day", pa.date32()), ("tags", pa.list_(pa.string()))])
    values: dict[str, tuple[pa.DataType, Any, Any]] = {
        "when": (pa.timestamp("us", "UTC"), datetime.datetime(2024, 2, 29, tzinfo=UTC), "2024-02-29T00:00:00+00:00"),
        "day": (pa.date32(), DAY, "2024-02-29"),
        "time": (pa.time64("us"), datetime.time(1, 2), "01:02:00"),
        "took": (pa.duration("us"), datetime.timedelta(minutes=1), "PT60S"),
        "price": (pa.decimal128(5, 2), decimal.Decimal("1.10"), "1.10"),
        "raw": (pa.binary(), b"\xff\x00", "/wA="),
        "nan": (pa.float64(), float("nan"), "NaN"),
        "big": (pa.uint64(), 2**64 - 1, 2**64 - 1),
        "nested": (nested, {"day": DAY, "tags": ["a"]}, {"day": "2024-02-29", "tags": ["a"]}),
        "map": (pa.map_(pa.string(), pa.int8()), [("a", 1)], [{"key": "a", "value": 1}]),
    }  # fmt: skip
    fields = [pa.field(name, kind) for name, (kind, _, _) in values.items()]
    row = {f"src_{name}": value for name, (_, value, _) in values.items()}
    run = make_run(tmp_path, [row, {}], fields)
    write(run, Form.JSONL, tmp_path / "a.jsonl")
    lines = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert {name: lines[0][f"src_{name}"] for name in values} == {name: found for name, (_, _, found) in values.items()}
    assert {lines[1][f"src_{name}"] for name in values} == {None}
    write(run, Form.CSV, tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="") as stream:
        cells = list(csv.DictReader(stream))
    assert {name: cells[0][f"src_{name}"] for name in values} == {
        name: found if isinstance(found, str) else json.dumps(found) for name, (_, _, found) in values.items()
    }


BAD_KEYS = [
    "../../x", "/etc/x", "a/../../x", "nul\0", "a\\..\\x", "C:/x", "..", "100%2E", storable("caf\udce9"), "\\ud83d",
    "./a/b", "plain",
]  # fmt: skip


def test_archives_and_coco_never_name_what_lies_outside(tmp_path: Path) -> None:
    run = make_run(tmp_path, [{"key": key, "sample_id": key, "text": "t"} for key in BAD_KEYS])
    exported = write(run, Form.WEBDATASET, tmp_path / "w")
    assert exported.rows == len(BAD_KEYS)
    assert "9 keys" in exported.notes[0]
    with tarfile.open(tmp_path / "w" / "s.tar", errors="surrogateescape") as tar:
        names = tar.getnames()[::2]
        tar.extractall(tmp_path / "out", filter="data")
    assert [name.removesuffix(".deed.txt") for name in names] == [
        "%2E%2E/%2E%2E/x", "%2Fetc/x", "a/%2E%2E/%2E%2E/x", "nul%00", "a%5C..%5Cx", "C%3A/x", "%2E%2E", "100%252E",
        "caf\udce9", "\\ud83d".replace("\\", "%5C"), "./a/b", "plain",
    ]  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {"run", "w", "out"}
    write(run, Form.COCO, tmp_path / "coco.json")
    files = [image["file_name"] for image in json.loads((tmp_path / "coco.json").read_text())["images"]]
    assert all(".." not in Path(name).parts and not name.startswith("/") and "\0" not in name for name in files)
    assert len(set(files)) == len(BAD_KEYS)


def test_an_image_folder_takes_any_key_and_says_what_is_gone(tmp_path: Path) -> None:
    keys = ["k" * 5000, "d/" * 2000 + "x", "A", "a", "../../up", "/etc/x", "sub/x", "gone", "x y", "x_y"]
    write_tar(tmp_path / "in" / "s.tar", [(f"{key}.png", image_bytes((n, 2, 3))) for n, key in enumerate(keys)])
    source = SourceConfig(paths=(f"{tmp_path}/in/s.tar",))
    reader = make_reader(source)
    shards = reader.shards(()).shards
    found = [sample.key for sample in reader.index(shards[0]).samples]
    assert len(found) == len(keys)
    run = make_run(tmp_path, [{"key": key, "text": "t"} for key in found])
    storage = Storage(run)
    save_plan(storage, {}, shards)
    storage.write(
        RUN_NAME, json.dumps({"status": "complete", "config": {"source": source.model_dump(mode="json")}}).encode()
    )
    kept = [(f"{key}.png", image_bytes((n, 2, 3))) for n, key in enumerate(keys) if key != "gone"]
    write_tar(tmp_path / "in" / "s.tar", kept)
    exported = write(run, Form.IMAGEFOLDER, tmp_path / "folder")
    assert exported.rows == len(keys) - 1
    assert [(part.reason, part.count, part.examples) for part in exported.left_out] == [("images_gone", 1, ("s/gone",))]
    lines = [json.loads(line) for line in (tmp_path / "folder" / "metadata.jsonl").read_text().splitlines()]
    names = [line["file_name"] for line in lines]
    assert len({name.casefold() for name in names}) == len(keys) - 1
    for line in lines:
        path = (tmp_path / "folder" / line["file_name"]).resolve()
        assert path.is_relative_to(tmp_path / "folder")
        assert path.read_bytes() == image_bytes((found.index(line["key"]), 2, 3))


def test_the_metadata_of_an_image_folder_has_columns_of_one_type(tmp_path: Path) -> None:
    write_tar(tmp_path / "in" / "s.tar", [(f"{n}.png", image_bytes((n, 2, 3))) for n in range(3)])
    source = SourceConfig(paths=(f"{tmp_path}/in/s.tar",))
    fields = [pa.field("score", pa.float64()), pa.field("scores", pa.list_(pa.float32()))]
    fields.append(pa.field("map", pa.map_(pa.string(), pa.int8())))
    scores = (0.5, float("nan"), float("-inf"))
    rows = [{"key": str(n), "src_score": x, "src_scores": [x, 1], "src_map": [("a", n)]} for n, x in enumerate(scores)]
    storage = Storage(make_run(tmp_path, rows, fields))
    save_plan(storage, {}, make_reader(source).shards(()).shards)
    record = {"status": "complete", "config": {"source": source.model_dump(mode="json")}}
    storage.write(RUN_NAME, json.dumps(record).encode())
    assert write(storage.url, Form.IMAGEFOLDER, tmp_path / "folder").rows == 3
    read = arrow_json.read_json(tmp_path / "folder" / "metadata.jsonl")  # as datasets does it
    assert read["src_score"].to_pylist() == [0.5, None, None]
    assert read["src_scores"].to_pylist() == [[0.5, 1], [None, 1], [None, 1]]
    assert read["src_map"].to_pylist() == [[{"key": "a", "value": n}] for n in range(3)]


def test_a_full_disk_and_a_folder_in_the_way_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, [{"text": "t"}])
    (tmp_path / "folder").mkdir()
    assert cli.main(["export", run, "--to", "jsonl", "--out", f"{tmp_path}/folder"]) == 2
    assert "it is a folder" in capsys.readouterr().err

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match="No space left on device"):
        write(run, Form.CSV, tmp_path / "new" / "a.csv")
    assert list((tmp_path / "new").iterdir()) == []
