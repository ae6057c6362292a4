"""Outputs that an earlier version has begun and not finished, as `earlier.tar.xz` beside this file.

    PYTHONPATH=<a checkout of that version> python tests/pipeline/old_outputs/make.py

made it, by the code of 09ebe14 and with this script as it was in d69b3f1, when modules had their earlier names.
In what is stored the folder of it all is called as in `ROOT`.
"""

import io
import json
import os
import sys
import tarfile
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from conf.schema import JobConfig
from conf.vqa import VqaConfig
from pipeline.output.storage import Storage
from pipeline.source.questions import Questions
from pipeline.source.readers import manifest
from pipeline.source.readers.folders import folder_shards
from pipeline.vqa.ticks import Tick, TickReader, load_ticks, plan_tick, tick_config
from tests.pipeline.small_run import small_run

ARCHIVE = Path(__file__).with_name("earlier.tar.xz")
ROOT = "/ROOT"
WRITTEN_S = 1_600_000_000  # when the sources were, as storage says
PIECE = 4  # files of a shard of a folder, records of one of a manifest
KINDS = ("tar", "gz", "lists", "jsonl", "rows", "images")
ASKED = ("tar", "gz", "lists", "images")
# Chunks: all of one shard and some of the next, or of the one there is.
_KILLED_AT = {"tar": 6, "gz": 6, "lists": 6, "jsonl": 3, "rows": 3, "images": 3}
_TABLE_SUFFIX = ".parquet"


class Killed(BaseException):
    pass


def config_for(root: Path, kind: str, *questions: str) -> JobConfig:
    """The run over the source of this kind; with questions, its ticks."""
    paths, name, extra = {
        "tar": ("*.tar", "webdataset", {"prompt": {"template": "What is {number}?"}}),
        "gz": ("*.tar.gz", "webdataset", {"id_column": "name"}),
        "lists": ("*.parquet", "parquet", {"image_column": "images", "id_column": "name"}),
        "jsonl": ("*.jsonl", "manifest", {"prompt": {"template": "What is {number}?"}}),
        "rows": ("*.parquet", "manifest", {"id_column": "name"}),
        "images": ("", "images", {"prompt": {"template": "What is {number}? {txt}"}}),
    }[kind]
    source = {"kind": name, "paths": [f"{root}/in/{kind}/{paths}"], "chunk_rows": 2, **extra}
    if questions:
        source["prompt"] = {}
    output = {"path": f"{root}/{'asked' if questions else 'out'}/{kind}"}
    engine = {"exits": (2, 4, 8), "thresholds": (0.9, 0.8)}  # as the checkpoint has them
    values = {"source": source, "model": {"checkpoint": "c"}, "engine": engine, "output": output}
    if questions:
        return VqaConfig.model_validate({**values, "questions": {"ask": questions, "field": "own"}})
    return JobConfig.model_validate(values)


def tick(config: VqaConfig, on_chunk: Callable[[str, int], None] = lambda *_: None) -> Tick:
    """What `deed vqa` does, without Ray and without a model: the tick that was begun, or the next."""
    root = Storage(config.output.path)
    ticks = load_ticks(root)
    begun = ticks[-1] if ticks and not root.exists(f"{ticks[-1].folder}/done") else None
    planned = begun or plan_tick(config, Questions.resolve(config.questions), ticks)
    assert planned is not None
    if begun is None:
        planned.save(root)
    small_run(tick_config(config, planned), TickReader.of(config, root, planned), on_chunk)
    root.write(f"{planned.folder}/done", b"")
    return planned


def rewritten(path: Path, before: str, after: str) -> None:
    """Put another name for the folder of it all into what is stored there."""
    if path.suffix == _TABLE_SUFFIX:
        table = pq.read_table(path)
        columns = [
            pa.array([text and text.replace(before, after) for text in column.to_pylist()])
            if column.type == pa.string()
            else column
            for column in table.columns
        ]
        pq.write_table(pa.table(columns, schema=table.schema), path)
    else:
        path.write_bytes(path.read_bytes().replace(before.encode(), after.encode()))


def _image(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (20 * number, 100, 200)).save(buffer, "PNG")
    return buffer.getvalue()


def _fields(number: int, file: str = "m") -> dict[str, object]:
    own = [f"Is it {n}?" for n in range(number % 3 + 1)]
    return {"number": number, "name": f"{file}{number}", "own": own}


def _write_sources(root: Path) -> None:
    for kind in KINDS:
        (root / "in" / kind).mkdir(parents=True)
    for kind, suffix in (("tar", "tar"), ("gz", "tar.gz")):
        for name in "ab":
            with tarfile.open(root / "in" / kind / f"{name}.{suffix}", "w:gz" if kind == "gz" else "w") as tar:
                for number in range(5):
                    _add(tar, f"x/{number}.{'dat' if number == 1 else 'PNG'}", _image(number))
                    _add(tar, f"x/{number}.json", json.dumps(_fields(number, name)).encode())
                _add(tar, "y.mask.png", _image(5))
                _add(tar, "y.jpg", _image(6))
                _add(tar, "y.png", _image(7))
                link = tarfile.TarInfo("z.jpg")
                link.type, link.linkname = tarfile.SYMTYPE, "nowhere.jpg"
                tar.addfile(link)
    for name in "ab":
        records = [_fields(number, name) for number in range(8)]
        images = [[_image(n), _image(n + 1)][: n % 3] for n in range(8)]
        table = pa.table({"images": images, **{key: [r[key] for r in records] for key in records[0]}})
        pq.write_table(table, root / "in" / "lists" / f"{name}.parquet", row_group_size=3)
    for kind in ("jsonl", "rows", "images"):
        for number in range(7):
            (root / "in" / kind / f"{number}.png").write_bytes(_image(number))
    lines = [json.dumps({"uri": f"{number}.png", **_fields(number)}) for number in range(7)]
    (root / "in" / "jsonl" / "m.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    table = pa.Table.from_pylist([{"uri": f"{number}.png", **_fields(number)} for number in range(7)])
    pq.write_table(table, root / "in" / "rows" / "m.parquet")
    lines = [json.dumps({"file_name": f"{number}.png", **_fields(number)}) for number in range(7)]
    (root / "in" / "images" / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for number in range(7):
        (root / "in" / "images" / f"{number}.txt").write_text("Say it.", encoding="utf-8")


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(data)
    tar.addfile(header, io.BytesIO(data))


def _killer(kind: str) -> Callable[[str, int], None]:
    done: list[object] = []

    def kill(shard: str, chunk: int) -> None:
        done.append((shard, chunk))
        if len(done) == _KILLED_AT[kind]:
            raise Killed

    return kill


def _run(run: Callable[[], object]) -> None:
    try:
        run()
    except Killed:
        return
    raise AssertionError("it is to be killed")


def main() -> None:
    folder_shards.FILES_PER_SHARD = manifest.RECORDS_PER_SHARD = PIECE
    uuid.uuid4 = lambda: type("Id", (), {"hex": "0123456789"})
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        _write_sources(root)
        for path in (root / "in").rglob("*"):
            os.utime(path, (WRITTEN_S, WRITTEN_S))
        for kind in KINDS:
            _run(lambda kind=kind: small_run(config_for(root, kind), on_chunk=_killer(kind)))
        for kind in ASKED:
            tick(config_for(root, kind, "What is it?"))
            config = config_for(root, kind, "What is it?", "Where is it?")
            _run(lambda config=config, kind=kind: tick(config, _killer(kind)))
        for path in sorted(path for path in root.rglob("*") if path.is_file() and path.parent.parent != root / "in"):
            rewritten(path, str(root), ROOT)
        with tarfile.open(ARCHIVE, "w:xz") as archive:
            archive.add(root, ".", filter=_plain)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    sys.exit(main())
