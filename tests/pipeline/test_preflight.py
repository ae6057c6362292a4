"""A name that no row has is told before anything runs, by every kind of source; what cannot be read says nothing."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.checkpoint_info import read_checkpoint_info
from conf.errors import UserError
from conf.source import SourceConfig
from conf.vqa import QuestionsConfig, VqaConfig
from pipeline import preflight
from pipeline.ops.cluster import Fit
from pipeline.output.preview import preview
from pipeline.preflight import check_fields
from pipeline.source.plan import Shard
from pipeline.source.questions import Questions
from pipeline.source.readers import FirstFields, make_reader
from pipeline.vqa.ticks import plan_tick
from tests.integration.corpus import make_config
from tests.shards import image_bytes, write_tar

PNG = image_bytes((1, 2, 3))
Rows = list[dict[str, Any]]


def tar(folder: Path, rows: Rows) -> dict[str, Any]:
    members = [m for n, row in enumerate(rows) for m in ((f"{n}.png", PNG), (f"{n}.json", json.dumps(row).encode()))]
    return {"kind": "webdataset", "paths": [str(write_tar(folder / "a.tar", members))]}


def parquet(folder: Path, rows: Rows) -> dict[str, Any]:
    pq.write_table(pa.Table.from_pylist([{"image": PNG, **row} for row in rows]), folder / "a.parquet")
    return {"kind": "parquet", "paths": [str(folder / "a.parquet")]}


def jsonl(folder: Path, rows: Rows) -> dict[str, Any]:
    (folder / "a.jsonl").write_text("".join(json.dumps({"uri": "none.png", **row}) + "\n" for row in rows))
    return {"kind": "manifest", "paths": [str(folder / "a.jsonl")]}


def csv(folder: Path, rows: Rows) -> dict[str, Any]:
    names = list(rows[0])
    cells = [["uri", *names], *(["none.png", *(str(row.get(name)) for name in names)] for row in rows)]
    (folder / "a.csv").write_text("".join(",".join(line) + "\n" for line in cells))
    return {"kind": "manifest", "paths": [str(folder / "a.csv")]}


def parquet_manifest(folder: Path, rows: Rows) -> dict[str, Any]:
    pq.write_table(pa.Table.from_pylist([{"uri": "none.png", **row} for row in rows]), folder / "m.parquet")
    return {"kind": "manifest", "paths": [str(folder / "m.parquet")]}


def folder_with_metadata(folder: Path, rows: Rows) -> dict[str, Any]:
    for n in range(len(rows) + 1):
        (folder / f"{n:02d}.png").write_bytes(PNG)
    lines = [json.dumps({"file_name": f"{n + 1:02d}.png", **row}) for n, row in enumerate(rows)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return {"kind": "images", "paths": [str(folder)]}


def folder_with_sidecars(folder: Path, rows: Rows) -> dict[str, Any]:
    for n, row in enumerate(rows):
        (folder / f"{n}.png").write_bytes(PNG)
        (folder / f"{n}.json").write_text(json.dumps(row))
    return {"kind": "images", "paths": [str(folder)]}


WITHOUT_SCHEMA = [tar, jsonl, folder_with_metadata, folder_with_sidecars]
KINDS = [parquet, csv, parquet_manifest, *WITHOUT_SCHEMA]
TYPOS: list[tuple[dict[str, Any], str]] = [
    ({"passthrough": ["number", "captoin"]}, "source.passthrough"),
    ({"id_column": "captoin"}, "source.id_column"),
    ({"prompt": {"limit_field": "captoin"}}, "source.prompt.limit_field"),
    ({"prompt": {"words_field": "captoin.words"}}, "source.prompt.words_field"),
    ({"prompt": {"template": "{number}: {captoin}"}}, "source.prompt.template"),
    ({"prompt": {"list_field": "captoin"}}, "source.prompt.list_field"),
]


def check(folder: Path, make: Callable[[Path, Rows], dict[str, Any]], rows: Rows, **settings: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    source = SourceConfig.model_validate({**make(folder, rows), **settings})
    reader = make_reader(source)
    check_fields(reader, source, reader.shards(()).shards)


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_a_typo_is_told_with_what_is_like_it(tmp_path: Path, make: Any) -> None:
    rows = [{"caption": f"c{n}", "number": n} for n in range(3)]
    for number, (settings, setting) in enumerate(TYPOS):
        with pytest.raises(UserError, match=f"{setting} names 'captoin', which .* did you mean 'caption'") as told:
            check(tmp_path / str(number), make, rows, **settings)
        assert "\n" not in str(told.value)
        assert ("{{" in str(told.value)) == ("template" in setting)
    check(tmp_path / "right", make, rows, passthrough=["caption"], id_column="number", prompt={"template": "{caption}"})


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_a_field_that_only_some_rows_have_is_no_mistake(tmp_path: Path, make: Any) -> None:
    rows: Rows = [{"a": "x", "b": None}, *[{"a": "y", "b": None}] * 30, {"a": "z", "b": "rare", "most": 3}]
    if make in (csv, parquet, parquet_manifest):
        rows = [{**row, "most": row.get("most")} for row in rows]
    check(tmp_path, make, rows, passthrough=["b"], prompt={"template": "{a}", "limit_field": "most"})


@pytest.mark.parametrize("make", WITHOUT_SCHEMA, ids=lambda make: make.__name__)
def test_only_the_first_rows_are_looked_at_and_that_can_be_left_out(tmp_path: Path, make: Any) -> None:
    rows: Rows = [{"a": n} for n in range(9)] + [{"late": 1}]
    with pytest.raises(UserError, match=r"none of the 4 first rows has.*source.check_rows=0"):
        check(tmp_path, make, rows, passthrough=["late"], check_rows=4)
    check(tmp_path, make, rows, passthrough=["late"], check_rows=0)
    check(tmp_path, make, rows, passthrough=["late"])


def test_images_without_anything_beside_them_have_no_fields(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    source = SourceConfig.model_validate({"kind": "images", "paths": [str(tmp_path)], "passthrough": ["txt"]})
    reader = make_reader(source)
    with pytest.raises(UserError, match="there are no fields at all"):
        check_fields(reader, source, reader.shards(()).shards)


@pytest.mark.parametrize("order", ["by suffix", "images only first"])
def test_an_archive_whose_samples_do_not_lie_together_is_looked_at_as_a_whole(tmp_path: Path, order: str) -> None:
    images = [(f"{n}.png", PNG) for n in range(20)]
    texts = [(f"{n}.txt", b"text") for n in range(20)]
    others = [(f"{n}.json", b'{"caption": "x"}') for n in range(20)]
    members = images + texts + others if order == "by suffix" else [*images, ("z.png", PNG), *others, *texts]
    path = write_tar(tmp_path / "a.tar", members)
    for name, is_there in (("caption", True), ("txt", True), ("captoin", False)):
        source = SourceConfig.model_validate({"paths": [str(path)], "passthrough": [name], "check_rows": 5})
        reader = make_reader(source)
        if is_there:
            check_fields(reader, source, reader.shards(()).shards)
        else:
            with pytest.raises(UserError, match="captoin"):
                check_fields(reader, source, reader.shards(()).shards)


OBJECTS = [{"question": "a?", "answer": "b"}, {"question": "c?", "answer": "d"}]
LISTS: list[tuple[Any, dict[str, Any], str | None]] = [
    (OBJECTS, {}, r"holds objects, so the template must name one of their keys, for example \{question\}"),
    (OBJECTS, {"template": "Q: {number}"}, "holds objects"),
    (OBJECTS, {"template": "{question} {number}"}, None),
    (OBJECTS, {"template": "{qestion}"}, r"names 'qestion'.*did you mean 'question'"),
    (["a?", "b?"], {}, None),
    (["a?", "b?"], {"template": "Q: {qa}"}, None),
    (["a?", "b?"], {"template": "Q:"}, r"holds texts, so the template must say where they go, by \{qa\}"),
    (["a?", "b?"], {"template": "Q: {number}"}, "holds texts"),
    ("a?", {}, "must be a field with a list, and it holds a text"),
]


@pytest.mark.parametrize("make", [tar, jsonl, parquet], ids=lambda make: make.__name__)
@pytest.mark.parametrize(("value", "prompt", "told"), LISTS)
def test_the_rule_of_lists_is_told_before_anything_runs(
    tmp_path: Path, make: Any, value: Any, prompt: dict[str, Any], told: str | None
) -> None:
    rows: Rows = [{"qa": value, "number": 1}, {"qa": None, "number": 2}]
    if told is None:
        check(tmp_path, make, rows, prompt={"list_field": "qa", **prompt})
    else:
        with pytest.raises(UserError, match=told):
            check(tmp_path, make, rows, prompt={"list_field": "qa", **prompt})


def test_passthrough_may_be_of_the_objects_and_a_list_stands_in_no_prompt(tmp_path: Path) -> None:
    rows: Rows = [{"qa": OBJECTS, "tags": ["a", "b"]}]
    prompt = {"list_field": "qa", "template": "{question}"}
    check(tmp_path, tar, rows, passthrough=["answer"], prompt=prompt)
    with pytest.raises(UserError, match=r"'anser'.*'answer'"):
        check(tmp_path, tar, rows, passthrough=["anser"], prompt=prompt)
    with pytest.raises(UserError, match=r"needs a text in \{tags\}, and the field holds a list"):
        check(tmp_path, tar, rows, prompt={"template": "{tags}"})
    check(tmp_path, tar, [{"qa": []}], passthrough=["answer"], prompt=prompt)  # nobody can say what items have


def test_what_cannot_be_read_or_hangs_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = SourceConfig.model_validate({"paths": ["x.tar"], "passthrough": ["a"]})
    monkeypatch.setattr(preflight, "_MOST_SECONDS", 0.2)

    class Bad:
        def __init__(self, hangs: bool) -> None:
            self.hangs = hangs

        def first_fields(self, shard: Shard, most_rows: int, until_s: float) -> FirstFields:
            if self.hangs:
                time.sleep(30)
            raise ConnectionError("away")

    start_s = time.monotonic()
    for hangs in (False, True):
        check_fields(Bad(hangs), source, [Shard("x", "x.tar", 1)] * 3)  # type: ignore[arg-type]
    assert time.monotonic() - start_s < 20


def test_a_plan_says_it_too_and_what_was_begun_goes_on(tmp_path: Path) -> None:
    tar(tmp_path / "in", [{"number": 1}])
    config = make_config(tmp_path, source={"passthrough": ["nmber"]})
    info, fit = read_checkpoint_info(config.model.checkpoint), Fit(2, 1.0, 0.0, 4.0, 0.0)
    with pytest.raises(UserError, match=r"'nmber'.*'number'"):
        preview(config, info, fit)
    from pipeline.output import incarnation
    from pipeline.output.settings import content_settings, save_settings
    from pipeline.output.storage import Storage

    save_settings(incarnation.renew(Storage(config.output.path)), content_settings(config, info))
    assert preview(config, info, fit).shards == 1


@dataclass
class Asked:
    """`deed vqa` over one tar."""

    root: Path

    def plan(self, source: dict[str, Any] | None = None, earlier: Any = (), **questions: Any) -> Any:
        job = make_config(self.root, source={"passthrough": [], **(source or {})}).model_dump(mode="json")
        config = VqaConfig.model_validate({**job, "questions": questions})
        return plan_tick(config, Questions.resolve(QuestionsConfig.model_validate(questions)), earlier)


def test_questions_are_looked_at_when_they_are_new(tmp_path: Path) -> None:
    tar(tmp_path / "in", [{"number": 1, "qa": [{"question": "a?", "answer": "b"}], "asks": [{"text": "c?"}]}])
    asked = Asked(tmp_path)
    for questions, told in (
        ({"ask": ["how many {nmber}?"]}, r"questions.ask or questions.file names 'nmber'.*'number'"),
        ({"field": "qaa"}, r"questions.field names 'qaa'.*'qa'"),
        ({"field": "asks"}, r"questions.field='asks' holds objects, so the template must name one of their keys"),
        ({"ask": ["x"], "template": "{question} {nmber}"}, r"questions.template names 'nmber'"),
    ):
        with pytest.raises(UserError, match=told):
            asked.plan(**questions)
    with pytest.raises(UserError, match=r"source.passthrough names 'anser'"):
        asked.plan({"passthrough": ["anser"]}, field="qa")
    first = asked.plan({"passthrough": ["answer", "number"]}, ask=["how many {number}?"], field="qa")
    assert first is not None
    later = asked.plan({"passthrough": ["anser"]}, [first], field="qa")  # what the output was begun with stays
    assert later is not None


def test_a_mistake_in_the_first_run_is_not_held_against_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs import vqa

    tar(tmp_path / "in", [{"number": 1}])
    done: list[str] = []
    monkeypatch.setattr(vqa, "run_tick", lambda config, root, tick, *_: done.append(tick.folder) or 0)
    for passthrough, told in (("nmber", "'nmber'"), ("number", None)):
        job = make_config(tmp_path, source={"passthrough": [passthrough]}).model_dump(mode="json")
        config = VqaConfig.model_validate({**job, "questions": {"ask": ["what?"]}})
        if told is None:
            assert vqa.run_ticks(config) == 0
        else:
            with pytest.raises(UserError, match=told):
                vqa.run_ticks(config)
    assert done == ["ticks/000001"]
    assert (tmp_path / "out" / "_state" / "config.json").exists()


FIRST_LINES: list[tuple[str, bytes, str]] = [
    ("a.csv", "uri;text\r\nx.png;y\r\n".encode("utf-8-sig"), "if semicolons stand between its cells.*delimiter=';'"),
    ("a.csv", b"uri\ttext\nx.png\ty\n", "if tabs stand between its cells, say so: source.table.format=tsv"),
    ("a.csv", "uri,text\nx.png,y\n".encode("utf-16-le"), "if it is in UTF-16.*encoding=utf-16-le"),
    ("a.csv", "uri,text\nx.png,y\n".encode("utf-16-be"), "if it is in UTF-16.*encoding=utf-16-be"),
    ("a.tsv", b'a "dog\timgs/0.png\na cat\timgs/1.png\n', r"no names but data.*columns='\[column1, uri\]'"),
    ("a.tsv", b"a dog\thttp://x/0\na cat\thttp://x/1\n", r"no names but data.*columns='\[column1, uri\]'"),
    ("a.csv", b"url,text\nx.png,y\n", "which has url, text; did you mean 'url'"),
    ("a.csv", b"", "'[^']*a.csv', which is empty$"),
    ("a.csv", b",".join(b"c%d" % n for n in range(500)) + b"\n", r"c19, \.\.\.$"),
    ("a.csv", b"uri,text,uri\nx.png,y,z\n", "names 'uri', and two columns of .* are called so"),
    (
        "a.jsonl",
        b'{"url": "x.png"}\n{"url": "y.png"}\n',
        "names 'uri', which none of the 2 first rows has",
    ),
    (
        "a.json",
        b'{"images": [{"uri": "x.png"}]}',
        "names 'uri', which the only row does not have; there is",
    ),
]


@pytest.mark.parametrize(("name", "content", "advice"), FIRST_LINES)
def test_a_table_without_the_column_of_uris_is_told_what_it_looks_like(
    tmp_path: Path, name: str, content: bytes, advice: str
) -> None:
    (tmp_path / name).write_bytes(content)
    source = SourceConfig.model_validate({"kind": "manifest", "paths": [str(tmp_path / name)]})
    reader = make_reader(source)
    with pytest.raises(UserError, match=advice) as told:
        check_fields(reader, source, reader.shards(()).shards)
    assert len(str(told.value)) < 600


def test_two_columns_of_one_name_are_refused_where_one_of_them_is_meant(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("uri,x,x\nnone.png,1,2\n")
    table = pa.table([pa.array([PNG]), pa.array(["1"]), pa.array(["2"])], names=["image", "x", "x"])
    pq.write_table(table, tmp_path / "a.parquet")
    for kind, path in (("manifest", "a.csv"), ("parquet", "a.parquet")):
        named = {"kind": kind, "paths": [str(tmp_path / path)]}
        for settings in ({"passthrough": ["x"]}, {"prompt": {"template": "{x}"}}, {"id_column": "x"}):
            source = SourceConfig.model_validate({**named, **settings})
            reader = make_reader(source)
            shards = reader.shards(()).shards
            with pytest.raises(UserError, match=r"names 'x', and two columns of .* are called so"):
                check_fields(reader, source, shards)
            (row,) = reader.read(shards[0], reader.index(shards[0]).samples)  # and costs nothing all the same
            assert row.error_type in (None, "missing_file")


def test_a_parquet_file_without_the_image_column_is_told_where_images_might_be(tmp_path: Path) -> None:
    for columns, advice in (
        ({"photo": [[PNG]], "text": ["x"]}, "which has photo, text; did you mean 'photo'"),
        ({"uri": ["x.png"]}, "which has uri; if one of them holds paths or URIs: source.kind=manifest"),
        ({"imag": [1]}, "did you mean 'imag'"),
    ):
        pq.write_table(pa.table(columns), tmp_path / "a.parquet")
        with pytest.raises(UserError, match=advice):
            make_reader(SourceConfig.model_validate({"kind": "parquet", "paths": [f"{tmp_path}/a.parquet"]})).shards(())
