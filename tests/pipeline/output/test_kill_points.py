"""A run killed at any single write or delete is continued by the next one: no row is ever lost, none stays doubled."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from conf.schema import RetryErrors
from pipeline.output import second_chance
from pipeline.output.ledger import Ledger
from pipeline.output.publish import ERRORS, RESULTS, publish_shard
from pipeline.output.staging import STAGING, load_index, rows_table, save_index, stage_chunk
from pipeline.output.storage import Storage
from pipeline.source.plan import Shard
from pipeline.source.readers.webdataset import WebDatasetReader
from pipeline.source.shard_index import ShardIndex
from tests.effort import effort
from tests.pipeline.helpers import bad_row, good_row
from tests.shards import write_tar

CHUNK_ROWS = 2
KEYS = [f"k{row}" for row in range(6)]
FAILING = {2, 3, 5}  # rows that fail the first time; row 5 for good, so that errors are never empty


class Killed(BaseException):
    """Nothing after this happens."""


class MortalStorage(Storage):
    """Dies at its n-th change, before or just after it; a folder is removed file by file, in the order given."""

    def __init__(self, url: str, lives: int | None = None, *, after: bool = False, backwards: bool = False) -> None:
        super().__init__(url)
        self._lives, self._after, self._backwards = lives, after, backwards

    def _change(self, make: Callable[[], None]) -> None:
        if self._lives is None:
            return make()
        self._lives -= 1
        if self._lives < 0:
            if self._after:
                make()
            raise Killed
        make()

    def write(self, name: str, data: bytes) -> None:
        self._change(lambda: super(MortalStorage, self).write(name, data))

    def remove(self, names: Iterator[str]) -> None:  # type: ignore[override]
        for name in names:
            if self.exists(name):
                self._change(lambda name=name: super(MortalStorage, self).remove([name]))  # type: ignore[misc]

    def remove_folder(self, folder: str) -> None:
        self.remove(f"{folder}/{name}" for name in sorted(self.walk(folder), reverse=self._backwards))
        super().remove_folder(folder)


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    path = write_tar(tmp_path / "s.tar", [(f"{key}.jpg", b"x") for key in KEYS])
    return Shard("s", str(path), path.stat().st_size)


@pytest.fixture
def urls() -> Iterator[Iterator[str]]:
    """Fresh outputs, in memory: a change is made or not made there as on any storage, and takes no time."""
    store = fsspec.filesystem("memory").store
    store.clear()
    yield (f"memory://out{number}" for number in itertools.count())
    store.clear()


def run(storage: Storage, shard: Shard, which: RetryErrors, failing: set[int]) -> list[int]:
    """What pipeline.run.run does with the storage; gives the chunks that were worked on."""
    reader = WebDatasetReader((shard.url,))
    retried = second_chance.shards_to_retry(storage, [shard], which)
    second_chance.open_again(storage, reader, retried, which, CHUNK_ROWS, ())
    ledger = Ledger.from_storage(storage, [shard.name])
    worked_on: list[int] = []
    while not ledger.finished:
        index = load_index(storage, shard.name)
        if index is None:
            index = ShardIndex(reader.index(shard).samples, (), CHUNK_ROWS)
            save_index(storage, shard.name, index)
        for chunk in set(range(index.num_chunks)) - ledger.open["s"].staged:
            rows = [s.row for s in index.chunk_samples(chunk)]
            bad = {"stage": "read", "error_type": "storage_error"}
            table = rows_table([{**bad_row(r), **bad} if r in failing else good_row(r) for r in rows])
            stage_chunk(storage, shard.name, chunk, table)
            worked_on.append(chunk)
            ledger.record_staged("s", chunk, index.num_chunks)
        publication = publish_shard(storage, "s")
        if publication.counts is None:
            ledger.record_redo("s", publication.redo)
        else:
            ledger.record_published("s")
    storage.remove_folder(STAGING)
    second_chance.close(storage)
    return worked_on


def keys(storage: Storage, folder: str) -> list[str]:
    found: list[str] = storage.read_table(f"{folder}/s.parquet")["key"].to_pylist()
    return found


def kill_points(make: Callable[..., Storage], work: Callable[[Storage], object]) -> Iterator[tuple[str, Storage]]:
    """The storage left by a death at each change that the work makes, of each kind of death."""
    kinds = ((False, False), (True, True))
    for after, backwards in effort(kinds, (*kinds, (False, True), (True, False))):
        for lives in range(1000):
            storage = make(lives, after=after, backwards=backwards)
            try:
                work(storage)
            except Killed:
                yield f"change {lives}, after={after}, backwards={backwards}", Storage(storage.url)
            else:
                assert lives > 5, "the work makes more changes than that"
                break


def test_a_first_run_killed_anywhere(shard: Shard, urls: Iterator[str]) -> None:
    def fresh(lives: int, **how: bool) -> Storage:
        return MortalStorage(next(urls), lives, **how)

    for place, storage in kill_points(fresh, lambda s: run(s, shard, RetryErrors.NONE, FAILING)):
        if storage.names(RESULTS):
            assert sorted(keys(storage, RESULTS) + keys(storage, ERRORS)) == KEYS, place
        run(storage, shard, RetryErrors.NONE, FAILING)
        assert (keys(storage, RESULTS), keys(storage, ERRORS)) == (["k0", "k1", "k4"], ["k2", "k3", "k5"]), place
        assert storage.walk("_staging") == [], place


@pytest.mark.parametrize("then", [RetryErrors.NONE, RetryErrors.TRANSIENT])
def test_a_second_chance_killed_anywhere(shard: Shard, urls: Iterator[str], then: RetryErrors) -> None:
    def published(lives: int, **how: bool) -> Storage:
        url = next(urls)
        run(Storage(url), shard, RetryErrors.NONE, FAILING)
        return MortalStorage(url, lives, **how)

    mended = 0
    for place, storage in kill_points(published, lambda s: run(s, shard, RetryErrors.TRANSIENT, {5})):
        assert set(keys(storage, RESULTS) + keys(storage, ERRORS)) == set(KEYS), f"{place}: a row is in neither file"
        published_again = keys(storage, ERRORS) == ["k5"]
        worked_on = run(storage, shard, then, {5})
        assert not (published_again and then is RetryErrors.NONE and worked_on), f"{place}: work was done twice"
        results, errors = keys(storage, RESULTS), keys(storage, ERRORS)
        assert sorted(results + errors) == KEYS, place
        assert errors in (["k5"], ["k2", "k3", "k5"]), place
        if then is RetryErrors.TRANSIENT:
            assert errors == ["k5"], place
        mended += errors == ["k5"]
        assert [name for name in storage.walk("") if name.startswith(("_staging", "_state"))] == [], place
    assert mended > 10


@pytest.mark.parametrize("lives", [0, 1, 2, 3])
def test_a_shard_published_again_gets_its_mark_before_anything_changes(
    shard: Shard, urls: Iterator[str], lives: int
) -> None:
    """The mark may be lost with a damaged index; what is staged since then replaces what is published all the same."""
    url = next(urls)
    run(Storage(url), shard, RetryErrors.NONE, FAILING)
    index = ShardIndex(WebDatasetReader((shard.url,)).index(shard).samples, (), CHUNK_ROWS)
    save_index(Storage(url), "s", index)
    for chunk in range(3):
        stage_chunk(Storage(url), "s", chunk, rows_table([good_row(2 * chunk), good_row(2 * chunk + 1)]))
    with pytest.raises(Killed):
        publish_shard(MortalStorage(url, lives), "s")
    assert set(keys(Storage(url), RESULTS) + keys(Storage(url), ERRORS)) == set(KEYS)
    assert run(Storage(url), shard, RetryErrors.NONE, set()) == []
    assert sorted(keys(Storage(url), RESULTS) + keys(Storage(url), ERRORS)) == KEYS


def test_a_killed_second_chance_keeps_the_chunks_it_has_done(tmp_path: Path, shard: Shard) -> None:
    """Rows 2 and 3 are chunk 1, row 5 is in chunk 2: the run is killed after one of the two."""
    storage = Storage(f"{tmp_path}/out")
    run(storage, shard, RetryErrors.NONE, FAILING)
    reader = WebDatasetReader((shard.url,))
    second_chance.open_again(storage, reader, [shard], RetryErrors.TRANSIENT, CHUNK_ROWS, ())
    stage_chunk(storage, "s", 1, rows_table([good_row(2), good_row(3)]))
    assert run(storage, shard, RetryErrors.TRANSIENT, set()) == [2]
    assert keys(storage, ERRORS) == []


def test_what_was_retried_before_the_kill_is_not_retried_again(tmp_path: Path, shard: Shard) -> None:
    """Two shards fail in a way that is tried again; one is done again and fails again, then the run is killed."""
    storage = Storage(f"{tmp_path}/out")
    run(storage, shard, RetryErrors.NONE, FAILING)
    reader = WebDatasetReader((shard.url,))
    second_chance.open_again(storage, reader, [shard], RetryErrors.ALL, CHUNK_ROWS, ())
    stage_chunk(storage, "s", 1, rows_table([good_row(2), good_row(3)]))
    stage_chunk(storage, "s", 2, rows_table([good_row(4), bad_row(5)]))
    assert publish_shard(storage, "s").counts is not None
    assert second_chance.shards_to_retry(storage, [shard], RetryErrors.ALL) == []
    second_chance.close(storage)
    assert second_chance.shards_to_retry(storage, [shard], RetryErrors.ALL) == [shard]
