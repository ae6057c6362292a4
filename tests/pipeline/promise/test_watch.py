"""The driver's side of the audit: counted once, rebuilt from storage, an alarm that stays."""

from pathlib import Path
from typing import Any

import pytest

from conf.guarantee import Corpus, Guarantee
from conf.schema import BrokenPromise
from pipeline.metrics.intervals import wilson_interval
from pipeline.output.ledger import Ledger
from pipeline.output.publish import publish_shard
from pipeline.output.staging import rows_table
from pipeline.output.storage import Storage
from pipeline.promise.choice import AuditPlan
from pipeline.promise.losses import Audited, audited
from pipeline.promise.watch import Watch, published_audit
from tests.pipeline.helpers import good_row, index_of, stage
from tests.pipeline.output.test_ledger import INFO, config

PLAN = AuditPlan(0.5, "text_differs")


def promise(risk: float = 0.05, **changes: Any) -> Guarantee:
    values: dict[str, Any] = {
        "method": "learn_then_test", "loss": "text_differs", "risk": risk, "level": 0.95, "sample_images": 300,
        "observed": risk / 2, "bound": risk, "exits": (2, 4, 8), "thresholds": (0.9, 0.8),
        "corpus": Corpus(paths=("a.tar",), kind="webdataset", num_images=900, fingerprint="f"),
        "weights_sha256": "w", "seed": 0, "date_utc": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    return Guarantee.model_validate({**values, **changes})


def summary(chunk: int, losses: list[float], shard: str = "s", num_rows: int = 10, **found: Any) -> dict[str, Any]:
    audit = Audited(tuple(losses), **found).to_json()
    return {"shard": shard, "chunk": chunk, "num_rows": num_rows, "audit": audit}


class Handle:
    """Of a Flag, counting how often it is told."""

    def __init__(self) -> None:
        self.told = 0
        self.hoist = self

    def remote(self) -> None:
        self.told += 1


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def test_a_chunk_counts_once_however_often_it_is_told_of(storage: Storage) -> None:
    watch = Watch(storage, PLAN, promise())
    for _ in range(9):
        assert not watch.take(summary(0, [1.0, 0.0]))
    assert (watch.state.num_images, watch.state.mean_loss, watch.state.broken) == (2, 0.5, False)


def test_the_alarm_is_raised_once_and_said_in_one_sentence(storage: Storage) -> None:
    watch = Watch(storage, PLAN, promise())
    raised = [watch.take(summary(chunk, [1.0])) for chunk in range(6)]
    assert raised.count(True) == 1
    at = raised.index(True) + 1
    assert watch.alarm is not None
    assert (watch.alarm.images, watch.alarm.rows) == (at, 10 * at)
    assert f"by {at} audited images" in watch.sentence
    assert "at most 5.00% was promised" in watch.sentence
    assert not watch.stops
    content = watch.content(busy_s=8.0)
    assert content["promise"]["alarm"]["images"] == at
    assert content["promise"]["wealth"] > content["promise"]["alarm_wealth"] == pytest.approx(20)
    assert (content["low"], content["high"]) == wilson_interval(6, 6)
    assert content["promise"]["images_missing"] == 145 - 6


def test_the_cost_and_what_is_missing_are_said(storage: Storage) -> None:
    watch = Watch(storage, PLAN, promise(0.01, level=None))
    watch.take(summary(0, [0.0] * 100, num_twice=120, device_s=2.0))
    content = watch.content(busy_s=8.0)
    assert (content["device_s"], content["device_share"], content["rows"]) == (2.0, 0.25, 120)
    assert (content["promise"]["images_to_see_double"], content["promise"]["images_missing"]) == (765, 665)
    assert content["promise"]["wealth"] < 1
    assert watch.content(busy_s=None)["device_share"] is None


def test_without_a_promise_it_only_looks(storage: Storage) -> None:
    watch = Watch(storage, PLAN)
    assert not any(watch.take(summary(chunk, [1.0])) for chunk in range(50))
    assert watch.content(1.0)["promise"] is None
    assert (watch.state.mean_loss, watch.state.broken) == (1.0, None)


def test_what_follows_a_fallback_neither_counts_for_the_promise_nor_against_it(storage: Storage) -> None:
    watch = Watch(storage, PLAN, promise(), BrokenPromise.FULL_DEPTH)
    flag = Handle()
    watch.follow(flag)
    assert flag.told == 0
    for chunk in range(6):
        watch.take(summary(chunk, [1.0]))
    assert flag.told >= 1
    told, mean = flag.told, watch.state.mean_loss
    watch.take(summary(6, [], num_followed=3, num_fallback_rows=10))
    assert (flag.told, watch.state.mean_loss) == (told, mean)
    content = watch.content(1.0)
    assert (content["images"], content["images_after_fallback"], content["rows_after_fallback"]) == (6, 3, 10)
    assert watch.alarm is not None
    assert f"{watch.alarm.rows} rows were not" in watch.sentence


def audited_row(row: int, loss: float, shard: str) -> dict[str, Any]:
    return good_row(row, shard=shard) | {"audit_loss": loss, "audit_text": "deep", "audit_device_s": 0.5}


def resumed(storage: Storage, **audit: Any) -> Watch:
    settings = config(audit={"fraction": 0.5, **audit})
    info = INFO.__class__(INFO.model, "w", "a", promise=promise())
    watch = Watch.resume(settings, info, storage, Ledger.from_storage(storage, ["a", "b"]))
    assert watch is not None
    return watch


def test_a_run_that_goes_on_has_the_wealth_it_had(storage: Storage) -> None:
    losses = {"a": [0.0, 1.0, 0.0, 0.0], "b": [0.0, 0.0, 1.0, 0.0]}
    live = Watch(storage, PLAN, promise())
    for chunk, shard in ((1, "b"), (1, "a"), (0, "a")):  # as they come
        rows = [audited_row(row, losses[shard][row], shard) for row in (2 * chunk, 2 * chunk + 1)]
        stage(storage, index_of(4, 2), chunk, rows, shard)
        found = audited(rows_table(rows)).to_json()
        live.take({"shard": shard, "chunk": chunk, "num_rows": 2, "audit": found})
    assert publish_shard(storage, "a").counts is not None
    assert published_audit(storage, "a") == (Audited((0.0, 1.0, 0.0, 0.0), num_twice=4, device_s=2.0), 4)
    again = resumed(storage)
    assert again.wealth is not None
    assert live.wealth is not None
    assert again.wealth.log == pytest.approx(live.wealth.log)
    assert again.content(10.0) == {
        **live.content(10.0), "promise": {**live.content(10.0)["promise"], "wealth": pytest.approx(live.wealth.value)}
    }  # fmt: skip
    assert not again.take({"shard": "b", "chunk": 1, "num_rows": 2, "audit": found})  # told of once more
    assert again.state.num_images == 6


def test_nothing_takes_an_alarm_back(storage: Storage) -> None:
    watch = Watch(storage, PLAN, promise())
    for chunk in range(6):
        watch.take(summary(chunk, [1.0]))
    again = resumed(storage, on_broken_promise="stop")
    assert again.alarm == watch.alarm
    assert again.stops


def test_where_nothing_is_audited_nothing_is_watched(storage: Storage) -> None:
    assert Watch.resume(config(), INFO, storage, Ledger([])) is None
