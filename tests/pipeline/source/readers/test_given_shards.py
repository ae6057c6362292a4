"""A run over some shards of a source: those alone are listed, under their names, whatever else is there or comes."""

from pathlib import Path

from conf.schema import JobConfig
from conf.source import SourceConfig
from pipeline.output.output import Output
from pipeline.output.storage import Storage
from pipeline.source.readers import make_reader
from pipeline.source.readers.given_shards import GivenShards
from tests.pipeline.small_run import done_rows, small_run
from tests.shards import image_bytes, write_shards


def test_a_run_over_some_shards_of_many(tmp_path: Path) -> None:
    write_shards(tmp_path / "in", 4, 3)
    paths = [f"{tmp_path}/in/*.tar"]
    job = JobConfig.model_validate(
        {"source": {"paths": paths}, "model": {"checkpoint": "c"}, "output": {"path": str(tmp_path / "out")}}
    )
    base = make_reader(job.source)
    given = tuple(shard for shard in base.shards(()).shards if shard.name in ("part-001", "part-003"))
    reader = GivenShards(base, given)
    small_run(job, reader)
    assert {shard for shard, _ in (name.split("/") for name, _ in done_rows(job.output.path))} == {
        "part-001", "part-003",
    }  # fmt: skip
    assert set(Output.at(Storage(job.output.path)).planned()) == {"part-001", "part-003"}
    write_shards(tmp_path / "in", 6, 3)
    assert [shard.name for shard in reader.shards(given).shards] == ["part-001", "part-003"]


def test_a_part_of_a_folder_stays_what_it_is_when_the_folder_grows(tmp_path: Path) -> None:
    for name in ("a", "c"):
        (tmp_path / f"{name}.png").write_bytes(image_bytes((1, 2, 3)))
    base = make_reader(SourceConfig(kind="images", paths=(str(tmp_path),)))
    given = base.shards(()).shards
    (tmp_path / "b.png").write_bytes(image_bytes((4, 5, 6)))
    (shard,) = GivenShards(base, given).shards(()).shards
    assert shard.members == ("a.png", "c.png")
    assert [sample.key for sample in GivenShards(base, given).index(shard).samples] == ["a.png", "c.png"]
