"""What `deed plan` says of a source and an output, before, in the middle of and after a run."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.checkpoint_info import read_checkpoint_info
from conf.errors import UserError
from conf.schema import JobConfig
from pipeline.ops.cluster import Fit
from pipeline.output import incarnation
from pipeline.output.preview import Preview, preview
from pipeline.output.settings import content_settings, save_settings
from pipeline.output.staging import save_index
from pipeline.output.storage import Storage
from pipeline.source.plan import Sample
from pipeline.source.shard_index import ShardIndex
from tests.integration.corpus import make_config
from tests.shards import write_shards

TWO_ACTORS = Fit(2, 1.0, 0.0, 4.0, 0.0)


def look(config: JobConfig, *, count_all: bool = False, like: str | None = None) -> Preview:
    return preview(config, read_checkpoint_info(config.model.checkpoint), TWO_ACTORS, count_all=count_all, like=like)


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_new_run_is_unknown_until_its_shards_are_counted(tmp_path: Path) -> None:
    write_shards(tmp_path / "in", 3, 20)
    config = make_config(tmp_path, cost={"price_per_hour": 2.0})
    plan = look(config)
    assert (plan.shards, plan.shards_counted, plan.samples_estimated, plan.samples_done) == (3, 0, None, 0)
    assert (plan.speed, plan.time_s, plan.cost, plan.held_by) == (None, None, None, None)
    counted = look(config, count_all=True)
    assert (counted.samples_counted, counted.samples_estimated, counted.chunks_counted) == (60, 60.0, 6)
    assert counted.time_s is None
    assert not (tmp_path / "out").exists(), "a plan writes nothing"


def test_photographs_of_a_folder_are_counted_without_opening_them(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for n in range(12):
        (tmp_path / "photos" / f"{n}.jpg").write_bytes(b"never opened")
    source = {"kind": "images", "paths": [str(tmp_path / "photos")], "chunk_rows": 5, "passthrough": []}
    plan = look(make_config(tmp_path, source=source))
    assert (plan.samples_counted, plan.samples_estimated, plan.chunks_counted) == (12, 12.0, 3)


def test_rows_of_a_parquet_manifest_are_rows_and_no_bytes(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uri": [f"{n}.jpg" for n in range(12)]}), tmp_path / "m.parquet")
    source = {"kind": "manifest", "paths": [f"{tmp_path}/m.parquet"], "chunk_rows": 5, "passthrough": []}
    plan = look(make_config(tmp_path, source=source))
    assert (plan.size_bytes, plan.size_rows, plan.samples_counted, plan.samples_estimated) == (0, 12, 12, 12.0)


def test_what_was_indexed_is_known_and_the_rest_follows_by_size(tmp_path: Path) -> None:
    write_shards(tmp_path / "in", 2, 20)
    config = make_config(tmp_path)
    storage = incarnation.renew(Storage(config.output.path))
    save_settings(storage, content_settings(config, read_checkpoint_info(config.model.checkpoint)))
    samples = tuple(Sample(row, f"{row:06d}", ()) for row in range(20))
    save_index(storage, "part-000", ShardIndex(samples, (), config.source.chunk_rows))
    before = files(tmp_path)
    plan = look(config)
    assert (plan.shards_counted, plan.samples_counted) == (1, 20)
    assert plan.samples_estimated == pytest.approx(40, rel=0.05)  # the shards differ by a few bytes
    assert files(tmp_path) == before, "a plan writes nothing"


def test_it_refuses_what_the_run_would_refuse(tmp_path: Path) -> None:
    write_shards(tmp_path / "in", 1, 5)
    config = make_config(tmp_path)
    info = read_checkpoint_info(config.model.checkpoint)
    save_settings(Storage(config.output.path), content_settings(config, info))
    other = make_config(tmp_path, engine={"generation": {"max_new_tokens": 7}})
    with pytest.raises(UserError, match="made with another configuration"):
        look(other)
    assert look(make_config(tmp_path, engine={"generation": {"max_new_tokens": 7}}, output={"path": f"{tmp_path}/o"}))
