"""What was planned stays planned: shards that are gone when a run goes on become errors, and can be brought back."""

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.errors import UserError
from conf.schema import JobConfig
from pipeline.output.ledger import PLAN_NAME, known_shards, save_plan
from pipeline.output.status import next_step, read_status
from pipeline.output.storage import Storage
from pipeline.source.plan import Shard
from tests.pipeline.small_run import done_rows, error_rows, small_run
from tests.shards import image_bytes, write_tar

ROWS = 6
PLANNED = ("a", "b", "c")


def write_source(root: Path, kind: str, name: str, rows: int = ROWS) -> Path:
    images = [image_bytes((n, ord(name[0]), 3), (4, 4)) for n in range(rows)]
    path = root / name
    if kind == "webdataset":
        return write_tar(path.with_suffix(".tar"), [(f"{n}.png", data) for n, data in enumerate(images)])
    if kind == "parquet":
        root.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"image": images}), path.with_suffix(".parquet"))
        return path.with_suffix(".parquet")
    folder = path if kind == "images" else root / "pictures" / name
    folder.mkdir(parents=True)
    for n, data in enumerate(images):
        (folder / f"{n}.png").write_bytes(data)
    if kind == "images":
        return folder
    manifest = path.with_suffix(".jsonl")
    manifest.write_text("\n".join(json.dumps({"uri": f"pictures/{name}/{n}.png"}) for n in range(rows)) + "\n")
    return manifest


def config_for(root: Path, kind: str, paths: list[str], **output: str) -> JobConfig:
    source = {"kind": kind, "paths": paths, "chunk_rows": 2, "retry": {"outage_s": 0}}
    output = {"path": str(root / "out"), **output}
    return JobConfig.model_validate({"source": source, "model": {"checkpoint": "c"}, "output": output})


class Killed(BaseException):
    pass


def begun(root: Path, kind: str, *, glob: bool) -> tuple[list[str], list[Path]]:
    """Three sources, and a run killed after it has done one of them and a chunk of the second."""
    files = [write_source(root / "in", kind, name) for name in PLANNED]
    paths = [str(root / "in" / f"*{files[0].suffix}")] if glob else [str(path) for path in files]
    chunks = 0

    def kill(*_: object) -> None:
        nonlocal chunks
        chunks += 1
        if chunks == 4:
            raise Killed

    with pytest.raises(Killed):
        small_run(config_for(root, kind, paths), on_chunk=kill)
    return paths, files


@pytest.mark.parametrize(
    ("kind", "glob"),
    [(kind, glob) for kind in ("webdataset", "parquet", "manifest") for glob in (True, False)] + [("images", False)],
)
def test_a_planned_shard_that_is_gone_is_an_error_and_can_be_brought_back(
    tmp_path: Path, kind: str, glob: bool
) -> None:
    paths, files = begun(tmp_path, kind, glob=glob)
    for path in files[1:]:
        shutil.move(path, tmp_path / path.name)
    output = str(tmp_path / "out")
    record = small_run(config_for(tmp_path, kind, paths))
    assert len(done_rows(output)) == ROWS + 2, "the first shard, and the chunk of the second that was there"
    assert set(error_rows(output).values()) == {"missing_shard"}
    assert len({name.partition("/")[0] for name in error_rows(output)}) == 2
    assert sum(counts.num_missing for counts in record.published.values()) == 2

    again = small_run(config_for(tmp_path, kind, paths, retry_errors="transient"))
    assert len(done_rows(output)) == ROWS + 2, "still gone"
    assert kind == "images" or any("stays as it was published" in why for why in again.warnings)
    for path in files[1:]:
        shutil.move(tmp_path / path.name, path)
    small_run(config_for(tmp_path, kind, paths, retry_errors="transient"))
    assert (len(done_rows(output)), error_rows(output)) == (3 * ROWS, {})


def test_a_shard_left_out_of_the_paths_later_is_done_all_the_same(tmp_path: Path) -> None:
    paths, _ = begun(tmp_path, "webdataset", glob=False)
    small_run(config_for(tmp_path, "webdataset", paths[:1]))
    assert len(done_rows(str(tmp_path / "out"))) == 3 * ROWS


@pytest.mark.parametrize("kind", ["webdataset", "parquet", "manifest", "images"])
def test_a_source_of_which_nothing_is_left_is_a_mistake(tmp_path: Path, kind: str) -> None:
    paths, files = begun(tmp_path, kind, glob=False)
    for path in files:
        shutil.move(path, tmp_path / path.name)
    with pytest.raises(UserError, match="nothing is left"):
        small_run(config_for(tmp_path, kind, paths))


@pytest.mark.parametrize("kind", ["manifest", "images"])
def test_a_plan_of_the_previous_version_is_continued(tmp_path: Path, kind: str) -> None:
    """It does not say which files were in a shard; one that is gone is missing as a whole."""
    paths, files = begun(tmp_path, kind, glob=False)
    storage = Storage(str(tmp_path / "out"))
    storage.write_table(PLAN_NAME, storage.read_table(PLAN_NAME).drop_columns(["members", "beside"]))
    shutil.rmtree(storage.path("_staging"))
    shutil.move(files[2], tmp_path / files[2].name)
    small_run(config_for(tmp_path, kind, paths))
    assert len(done_rows(storage.url)) == 2 * ROWS
    assert set(error_rows(storage.url).values()) == {"missing_shard"}


def test_plans_keep_what_describes_a_shard(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    shards = [Shard("a", "/a/caf\udce9", 3, ("x/\udcff.png", "y.png"), ("x/metadata.jsonl",)), Shard("b", "/b.tar", 4)]
    save_plan(storage, {}, shards)
    assert known_shards(storage) == {shard.name: shard for shard in shards}


def test_status_tells_of_missing_shards(tmp_path: Path) -> None:
    paths, files = begun(tmp_path, "webdataset", glob=True)
    files[2].unlink()
    small_run(config_for(tmp_path, "webdataset", paths))
    storage = Storage(str(tmp_path / "out"))
    note = {"start_utc": "2026-01-01T00:00:00+00:00", "last_seen_utc": "2026-01-01T00:00:01+00:00", "num_actors": 1}
    storage.write("_state/invocations/x.json", json.dumps({**note, "ended": True, "status": "shards_missing"}).encode())
    status = read_status(storage.url)
    assert (status.shards, status.shards_published, status.shards_missing) == (3, 3, 1)
    assert "retry_errors=transient" in next_step(status)


@pytest.mark.parametrize("kind", ["webdataset", "parquet", "manifest", "images"])
def test_a_source_may_grow_by_names_that_are_there_already(tmp_path: Path, kind: str) -> None:
    """What was done stays as it is, file for file, whatever comes before it in order or has its name."""
    output = tmp_path / "out"
    paths = [str(write_source(tmp_path / "in" / "m", kind, "b"))]
    small_run(config_for(tmp_path, kind, paths))
    first = {path: path.read_bytes() for path in [*output.glob("results/*"), *output.glob("errors/*")]}
    for number, folder in enumerate(("m2", "a"), 2):
        paths.insert(0, str(write_source(tmp_path / "in" / folder, kind, "b")))
        small_run(config_for(tmp_path, kind, paths))
        assert (len(done_rows(str(output))), error_rows(str(output))) == (number * ROWS, {})
        assert {path: path.read_bytes() for path in first} == first
    small_run(config_for(tmp_path, kind, paths[::-1]))
    assert len(done_rows(str(output))) == 3 * ROWS, "nothing is done twice"


def test_a_folder_may_grow_and_lose_files(tmp_path: Path) -> None:
    """New photographs are captioned, old ones keep their captions; one that is gone keeps what was said of it."""
    output, folder = tmp_path / "out", write_source(tmp_path, "images", "photos")
    config = config_for(tmp_path, "images", [str(folder)])
    small_run(config)
    before = done_rows(str(output))
    (folder / "0.png").unlink()
    for number, name in enumerate(("0a.png", "new/z.png"), 1):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(image_bytes((1, 2, number), (4, 4)))
        record = small_run(config)
        assert sum(counts.num_rows for counts in record.published.values()) == 1, "only what is new is read"
    now = done_rows(str(output))
    assert before.items() <= now.items()
    assert {key.partition("/")[2] for key, _ in now.keys() - before.keys()} == {"0a.png", "new/z.png"}
    (folder / "0a.png").write_bytes(b"another picture")
    small_run(config)
    assert done_rows(str(output)) == now, "what was said of it stays"


def test_a_folder_that_grows_between_kill_and_rerun(tmp_path: Path) -> None:
    paths, folders = begun(tmp_path, "images", glob=False)
    for folder in folders:
        (folder / "00.png").write_bytes(image_bytes((1, 2, 3), (4, 4)))
    small_run(config_for(tmp_path, "images", paths))
    output = str(tmp_path / "out")
    assert (len(done_rows(output)), error_rows(output)) == (3 * (ROWS + 1), {})


def test_names_that_are_not_utf8_can_be_tried_again(tmp_path: Path) -> None:
    """The names in the tables are those of the listing, in whatever form it has them."""
    folder = write_source(tmp_path, "images", "photos", 2)
    odd = Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png"))
    odd.write_bytes(b"")
    small_run(config_for(tmp_path, "images", [str(folder)]))
    output = str(tmp_path / "out")
    assert (len(done_rows(output)), len(error_rows(output))) == (2, 1)
    record = small_run(config_for(tmp_path, "images", [str(folder)], retry_errors="all"))
    assert (len(done_rows(output)), len(error_rows(output)), record.warnings) == (2, 1, [])
