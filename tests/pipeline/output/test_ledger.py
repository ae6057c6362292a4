"""The driver's book: whatever happens in whatever order, every row is published exactly once."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from conf.checkpoint_info import CheckpointInfo
from conf.errors import UserError
from conf.schema import JobConfig
from jobs.bench.null_engine import null_info
from pipeline.output import incarnation
from pipeline.output.lease import Lease
from pipeline.output.ledger import (
    Ledger,
    check_plan,
    clear_output,
    known_shards,
    save_plan,
)
from pipeline.output.publish import publish_shard
from pipeline.output.staging import chunk_name, rows_table, save_index, stage_chunk
from pipeline.output.storage import Storage
from pipeline.source.plan import Listing, Shard
from tests.pipeline.helpers import bad_row, good_row, index_of, stage

_MODEL = null_info(32).model
_DEEP = {"exits": (2, 4, 8), "thresholds": (0.9, 0.8), "decoder": _MODEL.decoder.model_copy(update={"num_layers": 8})}
INFO = CheckpointInfo(_MODEL.model_copy(update=_DEEP), "w", "a")


def config(**sections: object) -> JobConfig:
    base = {"source": {"paths": ["a.tar"]}, "model": {"checkpoint": "c"}, "output": {"path": "o"}}
    return JobConfig.model_validate({**base, **sections})


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def test_a_replaced_shard_is_noticed(storage: Storage) -> None:
    save_plan(storage, {}, [Shard("a", "/a.tar", 10)])
    save_plan(storage, known_shards(storage), [Shard("b", "/b.tar", 20)])
    known = known_shards(storage)
    assert known == {"a": Shard("a", "/a.tar", 10), "b": Shard("b", "/b.tar", 20)}
    check_plan(
        known,
        Listing(
            (
                Shard("a", "/elsewhere/a.tar", 10),
                Shard("c", "/c.tar", 1),
            )
        ),
    )
    with pytest.raises(UserError, match=r"'a' .*10 bytes then, 11 bytes now"):
        check_plan(known, Listing((Shard("a", "/a.tar", 11),)))


def test_clearing_removes_only_what_runs_write_and_keeps_the_lease(storage: Storage) -> None:
    for name in ("results/x", "errors/x", "_staging/s/x", "_state/x", "engine_stats/x", "run.json", "mine/notes.txt"):
        storage.write(name, b"1")
    storage = incarnation.renew(storage)
    with Lease(storage) as lease:
        clear_output(storage)
        assert storage.walk("") == ["_state/generation", "_state/lease/00000001.json", "mine/notes.txt"]
        lease.check()


def test_a_killed_runs_leftovers_are_cleaned_and_its_chunks_counted(storage: Storage) -> None:
    stage(storage, index_of(4, 2), 1, [good_row(2), good_row(3)])
    storage.write("results/done.parquet", b"1")
    storage.write("_staging/done/chunk-000000.parquet", b"published, then killed")
    for folder in ("results", "errors", "engine_stats", "_staging/s"):
        storage.write(f"{folder}/.tmp-1234", b"half a file")
    ledger = Ledger.from_storage(storage, ["s", "done", "new"])
    assert ledger.published == {"done"}
    assert {name: (book.staged, book.num_chunks) for name, book in ledger.open.items()} == {
        "s": ({1}, 2),
        "new": (set(), None),
    }
    assert storage.walk("") == [chunk_name(storage, "s", 1), "_staging/s/index.parquet", "results/done.parquet"]


class Run(RuleBasedStateMachine):
    """Chunks are staged in any order, twice, damaged, lost; the driver dies at any moment and starts again."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.storage = Storage(self.folder.name)

    def teardown(self) -> None:
        self.folder.cleanup()

    @initialize(sizes=st.lists(st.integers(0, 7), min_size=1, max_size=3), chunk_rows=st.integers(1, 3))
    def begin(self, sizes: list[int], chunk_rows: int) -> None:
        self.indexes = {f"s{number}": index_of(size, chunk_rows) for number, size in enumerate(sizes)}
        self.ledger = Ledger.from_storage(self.storage, self.indexes)

    @rule(data=st.data())
    def stage_a_chunk(self, data: st.DataObject) -> None:
        """A worker commits a chunk, perhaps one committed before, perhaps even of a shard already published."""
        shard = data.draw(st.sampled_from(sorted(self.indexes)))
        index = self.indexes[shard]
        chunk = data.draw(st.integers(0, index.num_chunks - 1))
        if not self.storage.exists(f"_staging/{shard}/index.parquet"):
            save_index(self.storage, shard, index)
        rows = [
            bad_row(s.row, shard) if s.row % 3 == 0 else good_row(s.row, shard=shard)
            for s in index.chunk_samples(chunk)
        ]
        stage_chunk(self.storage, shard, chunk, rows_table(rows))
        if data.draw(st.booleans()):  # the summary may be lost with the driver
            self.ledger.record_staged(shard, chunk, index.num_chunks)

    @rule(data=st.data())
    def damage_a_file(self, data: st.DataObject) -> None:
        staged = [name for name in self.storage.walk("_staging") if "chunk" in name]
        if staged:
            name = data.draw(st.sampled_from(staged))
            self.storage.write(f"_staging/{name}", data.draw(st.sampled_from([b"", b"PAR1 damaged"])))

    @rule()
    def publish(self) -> None:
        for shard in sorted(self.ledger.complete):
            publication = publish_shard(self.storage, shard)
            if publication.counts is None:
                self.ledger.record_redo(shard, publication.redo)
            else:
                assert publication.counts.num_rows == len(self.indexes[shard].samples)
                self.ledger.record_published(shard)

    @rule()
    def restart_the_driver(self) -> None:
        self.ledger = Ledger.from_storage(self.storage, self.indexes)

    @invariant()
    def published_shards_hold_every_row_once(self) -> None:
        for name in self.storage.names("results"):
            shard = name.removesuffix(".parquet")
            tables = [self.storage.read_table(f"{folder}/{name}") for folder in ("results", "errors")]
            keys = [key for table in tables for key in table["key"].to_pylist()]
            assert sorted(keys) == sorted(sample.key for sample in self.indexes[shard].samples)

    @invariant()
    def the_book_agrees_with_storage(self) -> None:
        if hasattr(self, "ledger"):
            on_storage = {name.removesuffix(".parquet") for name in self.storage.names("results")}
            assert self.ledger.published <= on_storage
            assert self.ledger.published | self.ledger.open.keys() == self.indexes.keys()


TestRun = Run.TestCase
TestRun.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
