"""What the driver does when the audit raises its alarm, now or in an earlier start of the command."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conf.checkpoint_info import CheckpointInfo
from conf.errors import PromiseBroken
from conf.schema import BrokenPromise
from pipeline.driver import Driver, Progress
from pipeline.ops.cluster import Fit
from pipeline.output.ledger import Ledger
from pipeline.output.output import Output
from pipeline.output.resume import finished_record
from pipeline.output.run_record import RunRecord
from pipeline.output.settings import content_settings, save_settings
from pipeline.output.staging import rows_table, stage_chunk
from pipeline.output.status import next_step, read_status
from pipeline.output.storage import Storage
from pipeline.promise.losses import audited
from pipeline.promise.watch import Watch
from tests.pipeline.helpers import good_row, index_of
from tests.pipeline.output.test_ledger import INFO, config
from tests.pipeline.promise.test_watch import Handle, promise
from tests.pipeline.small_run import Publisher
from tests.pipeline.test_driver import SIZES, Source

FIT = Fit(num_actors=2, actor_cpus=1, actor_gpus=0, cluster_cpus=4, cluster_gpus=0)
PROMISED = CheckpointInfo(INFO.model, "w", "a", promise=promise())


class Job:
    """One start of the command over the shards of `Source`, every image audited and lost."""

    def __init__(self, source: Source, reaction: BrokenPromise, flag: Handle | None = None) -> None:
        storage, self.source = source.storage, source
        settings = config(audit={"fraction": 1.0, "on_broken_promise": reaction.value})
        ledger = Ledger.from_storage(storage, SIZES)
        watch = Watch.resume(settings, PROMISED, storage, ledger)
        assert watch is not None
        watch.follow(flag)
        save_settings(storage, content_settings(settings, PROMISED))
        self.record = RunRecord(storage, settings, PROMISED, {}, FIT, ledger, watch=watch)
        self.seen: list[Progress] = []
        self.done: list[tuple[str, int]] = []
        self.driver = Driver(
            settings, storage, ledger, source.shards, self.record, Publisher(storage), self.seen.append,
            lambda: None, watch=watch,
        )  # fmt: skip

    def finish(self) -> dict[str, Any]:
        with self.record:
            self.driver.finish(self._run_pass)
        return self.record.content

    def _run_pass(self, tasks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for name, chunk in self.source.todo(tasks):
            self.done.append((name, chunk))
            summary = self.source.commit(name, chunk)
            samples = index_of(SIZES[name], 2).chunk_samples(chunk)
            lost = {"audit_loss": 1.0, "audit_text": "deep", "audit_device_s": 0.5}
            rows = rows_table([good_row(s.row, shard=name) | lost for s in samples])
            stage_chunk(self.source.storage, name, chunk, rows)
            yield summary | {"audit": audited(rows).to_json()}


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(Storage(str(tmp_path)))


def test_a_warning_is_said_once_and_the_run_goes_on(source: Source, caplog: pytest.LogCaptureFixture) -> None:
    job = Job(source, BrokenPromise.WARN)
    content = job.finish()
    assert content["status"] == "complete"
    assert [record.message for record in caplog.records if "is broken" in record.message] == content["warnings"]
    (warning,) = content["warnings"]
    assert warning.startswith("the promise of early exit is broken, by ")
    audit = content["audit"]
    assert (audit["images"], audit["rows"], audit["mean_loss"], audit["device_s"]) == (7, 7, 1.0, 3.5)
    assert audit["promise"]["alarm"]["images"] < 7
    assert job.seen[-1].audit is not None
    assert (job.seen[-1].audit.num_images, job.seen[-1].audit.broken) == (7, True)


def test_a_run_that_stops_says_so_and_stops_at_once_when_it_is_asked_again(source: Source) -> None:
    job = Job(source, BrokenPromise.STOP)
    with pytest.raises(PromiseBroken, match=r"is broken.*on_broken_promise=full_depth, or warn, the same command"):
        job.finish()
    assert len(job.done) < 5, "it should have stopped before the end"
    record = Output(source.storage).record()
    assert record is not None
    assert record["status"] == "promise_broken"
    assert record["audit"]["promise"]["on_broken_promise"] == "stop"
    assert finished_record(Output(source.storage), source.shards) is None
    assert "audit.on_broken_promise=full_depth, or warn" in next_step(read_status(source.storage.url))
    again = Job(source, BrokenPromise.STOP)
    with pytest.raises(PromiseBroken):
        again.finish()
    assert again.done == []
    on = Job(source, BrokenPromise.WARN)
    content = on.finish()
    assert sorted(job.done + on.done) == sorted(set(job.done + on.done)), "done twice"
    assert (content["status"], content["audit"]["images"]) == ("complete", 7)
    assert content["audit"]["promise"]["alarm"] == record["audit"]["promise"]["alarm"]


def test_a_fallback_is_told_to_the_actors_and_again_when_the_command_is_started_again(source: Source) -> None:
    flag = Handle()
    content = Job(source, BrokenPromise.FULL_DEPTH, flag).finish()
    assert content["status"] == "complete"
    assert flag.told >= 1
    told = Handle()
    Job(source, BrokenPromise.FULL_DEPTH, told)
    assert told.told == 1
