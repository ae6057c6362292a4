"""Ticks over a source that cannot be read: what is damaged for good becomes errors, an outage is waited for."""

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.errors import SourceAway
from conf.schema import RetryErrors
from conf.vqa import VqaConfig
from pipeline.output.storage import Storage
from pipeline.source.plan import Sample, Shard
from pipeline.source.questions import Questions
from pipeline.source.readers import RawSample, Reader, ReadFailure
from pipeline.vqa.relabel import RelabelReader
from pipeline.vqa.ticks import Tick, TickReader, load_ticks, plan_tick, tick_config
from tests.pipeline.small_run import done_rows, error_rows, small_run
from tests.shards import image_bytes

NUM_ROWS, GROUP_ROWS = 8, 2
IMAGES = [image_bytes((20 * n, 5, 5), (16, 16)) for n in range(NUM_ROWS)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "a.parquet"
    path.parent.mkdir()
    table = pa.table({"image": IMAGES, "name": [f"n{n}" for n in range(NUM_ROWS)]})
    pq.write_table(table, path, row_group_size=GROUP_ROWS, compression="none", use_dictionary=False)
    return path


def config_for(root: Path, *questions: str, retry_errors: RetryErrors = RetryErrors.NONE) -> VqaConfig:
    paths = [str(root / "in" / "*.parquet")]
    source = {"kind": "parquet", "paths": paths, "chunk_rows": 2, "id_column": "name", "retry": {"outage_s": 0}}
    values = {"source": source, "model": {"checkpoint": "c"}, "questions": {"ask": questions}}
    output = {"path": str(root / "out"), "retry_errors": retry_errors.value}
    return VqaConfig.model_validate({**values, "output": output})


def tick(root: Path, *questions: str, damaged: Exception | None = None) -> Tick:
    """What `deed vqa` does, without Ray and without a model; with `damaged`, rows 3 and on cannot be read."""
    config, storage = config_for(root, *questions), Storage(str(root / "out"))
    ticks = [old for old in load_ticks(storage) if storage.names(f"{old.folder}/results")]
    interrupted = load_ticks(storage)[len(ticks) :]
    planned = interrupted[0] if interrupted else plan_tick(config, Questions.resolve(config.questions), ticks)
    assert planned is not None
    planned.save(storage)
    reader = TickReader.of(config, storage, planned)
    if damaged is not None:
        reader = replace(reader, base=Damaged(reader.base, damaged))  # type: ignore[arg-type]
    small_run(tick_config(config, planned), reader)
    return planned


@dataclass(frozen=True)
class Damaged:
    """Gives three samples of a shard, then fails whenever it is asked for more."""

    base: Reader
    error: Exception

    def read(self, shard: Shard, samples: Sequence[Sample]) -> Iterator[RawSample]:
        good = [sample for sample in samples if sample.row < 3]
        yield from self.base.read(shard, good)
        if len(good) < len(samples):
            raise ReadFailure(str(self.error)) from self.error

    def __getattr__(self, name: str) -> object:
        return getattr(self.base, name)


def folder(root: Path, number: int) -> str:
    return f"{root}/out/ticks/{number:06d}"


def test_a_damaged_row_group_is_errors_of_its_tick(tmp_path: Path, source: Path) -> None:
    data = bytearray(source.read_bytes())
    first = data.index(b"n2", data.index(IMAGES[2])) - 40  # headers of the pages of the second group's names
    data[first : first + 36] = b"\xff" * 36
    source.write_bytes(data)
    for number, questions in enumerate([("a?",), ("a?", "b?"), ("a?", "b?", "c?")], 1):
        tick(tmp_path, *questions)
        answers = done_rows(folder(tmp_path, number))
        assert len(answers) == NUM_ROWS - GROUP_ROWS, "what can be read is asked what is new"
        assert {prompt_index for _, prompt_index in answers} == {0}
    assert set(error_rows(folder(tmp_path, 1)).values()) == {"damaged_row_group"}
    assert error_rows(folder(tmp_path, 3)) == {}, "what failed as a whole is not asked again"


@pytest.mark.parametrize("kind", [OSError("corrupt block"), FileNotFoundError(errno.ENOENT, "gone")])
def test_what_will_never_be_read_is_errors_of_its_tick(tmp_path: Path, source: Path, kind: Exception) -> None:
    tick(tmp_path, "a?")
    tick(tmp_path, "a?", "b?", damaged=kind)
    assert [name for name, _ in done_rows(folder(tmp_path, 2))] == ["n0", "n1", "n2"]
    assert len(error_rows(folder(tmp_path, 2))) == NUM_ROWS - 3
    tick(tmp_path, "a?", "b?", "c?")
    assert {name for name, _ in done_rows(folder(tmp_path, 3))} >= {"n0", "n1", "n2"}


@pytest.mark.parametrize("kind", [OSError(errno.EIO, "503"), TimeoutError(), PermissionError(errno.EACCES, "403")])
def test_a_storage_that_is_away_is_waited_for(tmp_path: Path, source: Path, kind: Exception) -> None:
    tick(tmp_path, "a?")
    with pytest.raises(SourceAway, match="run the same command again"):
        tick(tmp_path, "a?", "b?", damaged=kind)
    tick(tmp_path, "a?", "b?")
    assert (len(done_rows(folder(tmp_path, 2))), error_rows(folder(tmp_path, 2))) == (NUM_ROWS, {})


def test_errors_of_a_tick_can_be_tried_again(tmp_path: Path, source: Path) -> None:
    """The shard is gone for its first tick, and back when its errors are tried again."""
    config, storage = config_for(tmp_path, "a?", retry_errors=RetryErrors.TRANSIENT), Storage(str(tmp_path / "out"))
    planned = plan_tick(config, Questions.resolve(config.questions), [])
    assert planned is not None
    for name, rows, errors in (("gone", 0, {"a": "missing_shard"}), ("a.parquet", NUM_ROWS, {})):
        source = source.rename(source.with_name(name))
        small_run(tick_config(config, planned), TickReader.of(config, storage, planned))
        assert (len(done_rows(folder(tmp_path, 1))), error_rows(folder(tmp_path, 1))) == (rows, errors)


def test_uncertain_answers_that_are_no_longer_listed_are_told(tmp_path: Path, source: Path) -> None:
    planned, storage = tick(tmp_path, "a?"), Storage(str(tmp_path / "out"))
    name = f"{planned.folder}/results/a.parquet"
    table = storage.read_table(name)
    unsure = pa.array([0.1] * NUM_ROWS, pa.float32())
    at = table.column_names.index("min_confidence")
    storage.write_table(name, table.set_column(at, "min_confidence", unsure))
    reader = RelabelReader.over(config_for(tmp_path, "a?"), storage, planned, ["a"], 0.5)
    shard = planned.shards[0].shard
    assert (len(reader.index(shard).samples), reader.index(shard).problems) == (NUM_ROWS, ())
    source.unlink()
    (problem,) = reader.index(shard).problems
    assert problem.error_type == "missing_shard"
