"""A promise that early exit cannot keep, on real Ray with a tiny untrained model: the run stops, or falls back."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from conf.checkpoint_files import weights_sha256
from conf.guarantee import write_guarantee
from jobs.caption import run_job
from tests.integration.test_model import make_config, write_tiny_checkpoint
from tests.pipeline.promise.test_watch import promise
from tests.shards import sample_members, write_tar

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.usefixtures("ray"),
]

NUM_SHARDS, ROWS = 6, 20
NUM_LAYERS = 5


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A source, and a checkpoint that says one thing at its exits, another at full depth, and promises the contrary."""
    thresholds = (0.0,) * (NUM_LAYERS - 1)
    checkpoint = write_tiny_checkpoint(tmp_path / "checkpoint", thresholds=thresholds)
    guarantee = promise(0.02, thresholds=thresholds, weights_sha256=weights_sha256(checkpoint))
    write_guarantee(guarantee, checkpoint)
    for shard in range(NUM_SHARDS):
        numbers = range(shard * ROWS, (shard + 1) * ROWS)
        write_tar(tmp_path / "in" / f"s{shard}.tar", [m for n in numbers for m in sample_members(n)])
    return tmp_path


def run(root: Path, on_broken_promise: str) -> tuple[int, dict[str, Any] | None]:
    config = make_config(root)
    audit = config.audit.__class__(fraction=0.3, on_broken_promise=on_broken_promise)
    return run_job(config.model_copy(update={"audit": audit}))


def test_a_broken_promise_stops_the_run_and_the_same_command_goes_on_otherwise(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, record = run(root, "stop")
    assert (code, record) == (9, None)
    assert "the promise of early exit is broken" in capsys.readouterr().err
    code, record = run(root, "warn")
    assert (code, record["status"] if record else None) == (0, "complete")
    assert record is not None
    rows = pq.read_table(root / "out" / "results").to_pylist()
    assert len({row["sample_id"] for row in rows}) == len(rows) == NUM_SHARDS * ROWS
    losses = [row["audit_loss"] for row in rows if row["audit_loss"] is not None]
    assert record["audit"]["images"] == len(losses) > 0
    assert record["audit"]["mean_loss"] == pytest.approx(sum(losses) / len(losses))
    assert record["audit"]["low"] > 0.02
    assert record["audit"]["promise"]["alarm"] is not None


def test_a_fallback_finishes_the_run_with_the_promise_kept_on_what_follows(root: Path) -> None:
    code, record = run(root, "full_depth")
    assert code == 0
    assert record is not None
    rows = pq.read_table(root / "out" / "results").to_pylist()
    assert len(rows) == NUM_SHARDS * ROWS
    since = [row for row in rows if row["fallback"]]
    assert 0 < len(since) < len(rows)
    assert {layer for row in since for layer in row["exit_layers"]} == {NUM_LAYERS}
    assert {row["audit_loss"] for row in since} == {0.0, None}
    audit = record["audit"]
    assert (audit["rows_after_fallback"], audit["images_after_fallback"] > 0) == (len(since), True)
    assert audit["promise"]["alarm"]["rows"] <= len(rows) - len(since)
    assert 0 < audit["device_share"] < 1
