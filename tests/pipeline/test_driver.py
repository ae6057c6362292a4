"""The driver's loop with the dataflow replaced by a script: lost chunks are asked for again, bad runs are stopped."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import driver as driver_module
from pipeline.driver import Driver, IncompleteRun, Pace, Progress
from pipeline.output.ledger import Ledger
from pipeline.output.publish import Counts
from pipeline.output.run_record import TooManyErrors
from pipeline.output.staging import rows_table, save_index, stage_chunk
from pipeline.output.storage import Storage
from pipeline.source.plan import Shard, ShardProblem
from pipeline.source.shard_index import ShardIndex
from tests.pipeline.helpers import good_row, index_of
from tests.pipeline.output.test_ledger import config
from tests.pipeline.small_run import Publisher


class Record:
    def __init__(self) -> None:
        self.published: dict[str, Counts] = {}

    def add_published(self, shard_name: str, counts: Counts) -> None:
        self.published[shard_name] = counts

    def touch(self) -> None:
        pass


SIZES = {"a": 5, "b": 2, "c": 0}


class Source:
    """Three shards in chunks of two rows; `commit` does what a worker does."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.shards = [Shard(name, f"/{name}.tar", 100 * size) for name, size in SIZES.items()]
        self.asked: list[dict[str, list[int]]] = []

    def todo(self, tasks: list[dict[str, Any]]) -> list[tuple[str, int]]:
        staged = {json.loads(task["shard"])["name"]: json.loads(task["staged"]) for task in tasks}
        self.asked.append(staged)
        return [
            (name, chunk)
            for name, done in staged.items()
            for chunk in range(index_of(SIZES[name], 2).num_chunks)
            if chunk not in done
        ]

    def commit(self, name: str, chunk: int, num_errors: int = 0) -> dict[str, Any]:
        index = index_of(SIZES[name], 2)
        save_index(self.storage, name, index)
        samples = index.chunk_samples(chunk)
        stage_chunk(self.storage, name, chunk, rows_table([good_row(s.row, shard=name) for s in samples]))
        return self.summary(name, chunk, len(samples), num_errors)

    def summary(self, name: str, chunk: int, num_rows: int, num_errors: int = 0) -> dict[str, Any]:
        return {
            "shard": name,
            "chunk": chunk,
            "num_chunks": index_of(SIZES[name], 2).num_chunks,
            "num_rows": num_rows,
            "num_errors": num_errors,
            "num_layers_run": 6 * num_rows,
            "num_layers_caught_up": 9 * num_rows,
            "num_steps": 2 * num_rows,
            "error_types": json.dumps({"read/broken": num_errors}),
        }


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(Storage(str(tmp_path)))


def make_driver(
    source: Source, on_progress: Any = lambda _: None, ledger: Ledger | None = None
) -> tuple[Driver, Record]:
    record = Record()
    publisher = Publisher(source.storage, ())
    ledger = ledger or Ledger.from_storage(source.storage, SIZES)
    driver = Driver(config(), source.storage, ledger, source.shards, record, publisher, on_progress, lambda: None)
    return driver, record


def test_one_pass_publishes_everything_and_reports_it(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "_REPORT_S", 0.0)
    seen: list[Progress] = []
    driver, record = make_driver(source, seen.append)
    driver.finish(lambda tasks: (source.commit(*chunk) for chunk in source.todo(tasks)))
    assert {name: counts.num_ok for name, counts in record.published.items()} == SIZES
    assert [progress.fraction for progress in seen] == sorted(progress.fraction for progress in seen)
    assert seen[-1].computed_depth == 4.5  # earlier tokens catch up
    assert (seen[-1].fraction, seen[-1].num_rows, seen[-1].mean_depth, seen[-1].num_shards_published) == (
        1.0,
        7,
        3.0,
        3,
    )


def test_chunks_that_ray_loses_are_asked_for_again(source: Source) -> None:
    """A summary without a commit, a commit without a summary, and a chunk nobody did."""

    def run_pass(tasks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        todo = source.todo(tasks)
        if len(source.asked) == 1:
            yield source.summary("a", 0, 2)  # claimed, never committed
            yield source.commit("a", 1)
            source.commit("b", 0)  # committed, never reported
            yield source.commit("c", 0)
        else:
            for chunk in todo:
                yield source.commit(*chunk)

    driver, record = make_driver(source)
    driver.finish(run_pass)
    assert record.published.keys() == SIZES.keys()
    assert source.asked[0] == {"a": [], "b": [], "c": []}
    assert len(source.asked) <= 3


def test_a_long_list_is_done_in_several_passes(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "MOST_SHARDS_A_PASS", 2)
    monkeypatch.setattr(driver_module, "_MAX_IDLE_PASSES", 1)
    driver, record = make_driver(source)
    driver.finish(lambda tasks: (source.commit(*chunk) for chunk in source.todo(tasks)))
    assert [sorted(asked) for asked in source.asked] == [["a", "b"], ["c"]]
    assert record.published.keys() == SIZES.keys()


def test_what_a_killed_run_had_staged_is_published_without_work(source: Source) -> None:
    for name, chunk in source.todo([{"shard": json.dumps({"name": name}), "staged": "[]"} for name in SIZES]):
        source.commit(name, chunk)
    driver, record = make_driver(source)
    driver.finish(lambda _: pytest.fail("there was nothing to do"))
    assert record.published.keys() == SIZES.keys()


def test_a_pass_that_never_brings_anything_ends(source: Source) -> None:
    driver, _ = make_driver(source)
    with pytest.raises(IncompleteRun, match="brought nothing"):
        driver.finish(lambda _: iter(()))


def test_too_many_errors_stop_the_run_with_the_most_frequent_ones(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "_MIN_ROWS_TO_JUDGE", 4)
    driver, _ = make_driver(source)
    with pytest.raises(TooManyErrors, match=r"4 of 6 rows failed, .*=0.5: 4 x read/broken"):
        driver.finish(
            lambda _: (source.commit("a", chunk, num_errors=errors) for chunk, errors in [(0, 0), (1, 2), (0, 2)])
        )


def unreadable(source: Source, name: str) -> dict[str, Any]:
    """A shard that could not be listed: no samples, one problem."""
    save_index(source.storage, name, ShardIndex((), (ShardProblem("unreadable_shard", "503"),), 2))
    stage_chunk(source.storage, name, 0, rows_table([]))
    return {**source.summary("c", 0, 0), "shard": name}


@pytest.mark.parametrize(("num_bad", "stopped"), [(6, True), (5, False)])
def test_a_storage_that_is_away_stops_the_run_before_it_has_used_up_all_shards(
    source: Source, num_bad: int, stopped: bool
) -> None:
    names = [f"s{n:02d}" for n in range(10)]
    ledger = Ledger.from_storage(source.storage, names)
    source.shards = [Shard(name, f"/{name}.tar", 1) for name in names]
    driver, record = make_driver(source, ledger=ledger)

    def run_pass(_: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for number, name in enumerate(names):
            if number < num_bad:
                yield unreadable(source, name)
            else:
                save_index(source.storage, name, index_of(1, 2))
                stage_chunk(source.storage, name, 0, rows_table([good_row(0, shard=name)]))
                yield {**source.summary("c", 0, 1), "shard": name}

    if stopped:
        with pytest.raises(TooManyErrors, match=r"6 of 10 shards could not be read, more than .*=0.5"):
            driver.finish(run_pass)
    else:
        driver.finish(run_pass)
    assert len(record.published) == 10


def test_the_time_left_follows_the_later_half() -> None:
    pace = Pace(100.0, 0.1, 50)
    assert pace.left_s(100.0, 0.1) is None
    for second in range(1, 41):  # a slow start of 10 s, then 2 % a second
        done = 0.1 + 0.005 * min(second, 10) + 0.02 * max(0, second - 10)
        left_s = pace.left_s(100.0 + second, done)
        if second >= 20:
            assert left_s == pytest.approx((1 - done) / 0.02)
    assert pace.rows_per_s(110.0, 70) == 2.0
    assert pace.left_s(1000.0, 0.75) == pytest.approx(900 * 0.25 / 0.65)  # nothing came for long


def test_a_long_run_keeps_few_moments() -> None:
    pace = Pace(0.0, 0.0, 0)
    for tick in range(1, 20_000):
        left_s = pace.left_s(tick / 5, tick / 20_000)
    assert left_s == pytest.approx(0.2, rel=0.01)
    assert len(pace._moments) <= Pace._MOST
