"""An audited run from its configuration to run.json, with a tiny untrained model and without Ray."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from actors.captioner import Captioner
from conf.checkpoint_files import weights_sha256
from conf.errors import PromiseBroken
from conf.guarantee import write_guarantee
from conf.resolve import image_plan
from conf.schema import JobConfig
from jobs.caption import captioner_spec, with_checkpoint
from pipeline.driver import Driver
from pipeline.ops.crash_log import CrashLog
from pipeline.output.ledger import Ledger
from pipeline.output.resume import begin, decide
from pipeline.output.run_record import RunRecord
from pipeline.output.settings import content_settings
from pipeline.output.storage import Storage
from pipeline.promise.choice import Flag
from pipeline.promise.watch import Watch
from pipeline.services import RunServices
from pipeline.source.readers import make_reader
from pipeline.stages import IndexShard, PrepareChunk
from tests.actors.test_captioner import LocalActor
from tests.integration.test_model import make_config, write_tiny_checkpoint
from tests.pipeline.promise.test_watch import promise
from tests.pipeline.small_run import Publisher
from tests.pipeline.test_driver_audit import FIT
from tests.shards import sample_members, write_tar

NUM_SHARDS, ROWS, NUM_LAYERS = 3, 20, 5
NUM_ROWS = NUM_SHARDS * ROWS


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, and a checkpoint that says one thing at its exits, another at full depth, and promises the contrary."""
    root, thresholds = tmp_path_factory.mktemp("source"), (0.0,) * (NUM_LAYERS - 1)
    checkpoint = write_tiny_checkpoint(root / "checkpoint", thresholds=thresholds)
    write_guarantee(promise(0.02, thresholds=thresholds, weights_sha256=weights_sha256(checkpoint)), checkpoint)
    for shard in range(NUM_SHARDS):
        numbers = range(shard * ROWS, (shard + 1) * ROWS)
        write_tar(root / "in" / f"s{shard}.tar", [m for n in numbers for m in sample_members(n)])
    return root


class Hoist:
    """`flag.hoist.remote()` of a flag in this process."""

    def __init__(self, flag: Flag) -> None:
        self.hoist, self.remote = self, flag.hoist


def run(source: Path, out: Path, **audit: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What `pipeline.run.run` does, chunk by chunk in this process; run.json and the rows of results."""
    values = make_config(source, tuning={"calibration_s": 0}).model_dump()
    given = JobConfig.model_validate({**values, "audit": audit, "output": {"path": str(out)}})
    config, info = with_checkpoint(given)
    reader, settings = make_reader(config.source), content_settings(config, info)
    decision = decide(Storage(str(out)), config, settings, reader)
    begun = begin(decision, config, settings, reader)
    storage = begun.storage
    ledger = Ledger.from_storage(storage, [shard.name for shard in decision.shards])
    watch, flag = Watch.resume(config, info, storage, ledger), Flag()
    assert watch is not None
    watch.follow(Hoist(flag) if watch.plan.falls_back else None)
    flag_of = LocalActor(flag) if watch.plan.falls_back else None
    plan = watch.plan.__class__(watch.plan.fraction, watch.plan.loss, watch.plan.falls_back, flag_of)
    services = RunServices(storage, "run", begun.passthrough, LocalActor(CrashLog()), audit=plan)
    index = IndexShard(reader, storage, config.source.chunk_rows)
    prepare = PrepareChunk.from_config(config, reader, image_plan(info.model, config.preprocess), RunServices(
        storage, "run", begun.passthrough
    ))  # fmt: skip
    captioner = Captioner(captioner_spec(config).make_backend, services)

    async def caption(chunk: pa.Table) -> list[dict[str, Any]]:
        return (await captioner(chunk)).to_pylist()

    def run_pass(tasks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for task in tasks:
            for spans in index(pa.Table.from_pylist([task])):
                for chunk in prepare(spans):
                    yield from asyncio.run(caption(chunk))

    record = RunRecord(storage, config, info, settings, FIT, ledger, watch=watch)
    driver = Driver(
        config, storage, ledger, decision.shards, record, Publisher(storage), lambda _: None, lambda: None,
        info.model.decoder.num_layers, watch,
    )  # fmt: skip
    with record:
        driver.finish(run_pass)
    names = storage.names("results")
    return record.content, [row for name in names for row in storage.read_table(f"results/{name}").to_pylist()]


def test_a_fallback_finishes_the_run_with_the_promise_kept_on_what_follows(source: Path, tmp_path: Path) -> None:
    content, rows = run(source, tmp_path, fraction=0.5, on_broken_promise="full_depth")
    assert (content["status"], len(rows)) == ("complete", NUM_ROWS)
    since = [row for row in rows if row["fallback"]]
    before = [row for row in rows if not row["fallback"]]
    alarm = content["audit"]["promise"]["alarm"]
    assert 0 < alarm["rows"] == len(before) < NUM_ROWS
    assert {layer for row in since for layer in row["exit_layers"]} == {NUM_LAYERS}
    assert {row["audit_loss"] for row in since} == {0.0, None}
    lost = [row["audit_loss"] for row in before if row["audit_loss"] is not None]
    assert sum(lost) / len(lost) == pytest.approx(content["audit"]["mean_loss"])
    assert content["audit"]["low"] > 0.02
    audit = content["audit"]
    assert (audit["rows_after_fallback"], audit["images"]) == (len(since), len(lost))
    assert audit["images_after_fallback"] == sum(row["audit_loss"] is not None for row in since) > 0
    assert audit["device_s"] == pytest.approx(sum(row["audit_device_s"] or 0 for row in rows), rel=1e-4)
    assert 0 < audit["device_share"] < 1


def test_a_stopped_run_goes_on_to_the_rows_of_one_that_was_not(source: Path, tmp_path: Path) -> None:
    with pytest.raises(PromiseBroken):
        run(source, tmp_path / "stopped", fraction=0.5, on_broken_promise="stop")
    with pytest.raises(PromiseBroken):
        run(source, tmp_path / "stopped", fraction=0.5, on_broken_promise="stop")
    content, rows = run(source, tmp_path / "stopped", fraction=0.5, on_broken_promise="warn")
    whole, expected = run(source, tmp_path / "whole", fraction=0.5)
    audited = [(row["sample_id"], row["text"], row["audit_loss"], row["audit_text"]) for row in rows]
    assert audited == [(row["sample_id"], row["text"], row["audit_loss"], row["audit_text"]) for row in expected]
    assert content["audit"]["promise"]["wealth"] == pytest.approx(whole["audit"]["promise"]["wealth"])
    (warning,) = content["warnings"]
    assert "is broken" in warning
