"""Two workers of Ray Train share a run and leave a checkpoint that loads."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from actors.model.checkpoint import load_checkpoint
from tests.actors.training.corpus import tiny_config, write_corpus

pytestmark = pytest.mark.integration


def test_two_workers(tmp_path: Path) -> None:
    shards = write_corpus(tmp_path / "corpus", 16)
    config = tiny_config(
        tmp_path / "run", shards, workers={"num_workers": 2, "num_cpus": 0.5}, loss={"grounding_weight": 0.0},
        validate_every=6,
    )  # fmt: skip
    (tmp_path / "train.yaml").write_text(config.model_dump_json())
    command = [sys.executable, "-m", "jobs.cli", "train", "--config", str(tmp_path / "train.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Failed to query" not in done.stdout + done.stderr
    assert json.loads((tmp_path / "run" / "state" / "position.json").read_text())["step"] == 12
    reports = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [report["step"] for report in reports if "validation" in report] == [6, 12]  # one worker reports
    assert load_checkpoint(tmp_path / "run" / "checkpoint").config.exits == (1, 2, 3)
