"""Two workers of Ray Train share a run and leave a checkpoint that loads."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from actors.model.checkpoint import load_checkpoint
from conf.frozen import FrozenConfig
from tests.actors.training.corpus import tiny_config, write_corpus

pytestmark = pytest.mark.integration


def _train(path: Path, config_json: str) -> None:
    path.write_text(config_json)
    command = [sys.executable, "-m", "jobs.cli", "train", "--config", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Failed to query" not in done.stdout + done.stderr


def test_two_workers(tmp_path: Path) -> None:
    shards = write_corpus(tmp_path / "corpus", 16)
    config = tiny_config(
        tmp_path / "run", shards, workers={"num_workers": 2, "num_cpus": 0.5}, loss={"grounding_weight": 0.0},
        validate_every=6,
    )  # fmt: skip
    _train(tmp_path / "train.yaml", config.model_dump_json())
    assert json.loads((tmp_path / "run" / "state" / "position.json").read_text())["step"] == 12
    reports = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [report["step"] for report in reports if "validation" in report] == [6, 12]  # one worker reports
    assert load_checkpoint(tmp_path / "run" / "checkpoint").config.exits == (1, 2, 3)

    frozen = FrozenConfig.model_validate({
        "checkpoint": str(tmp_path / "run" / "checkpoint"), "output": str(tmp_path / "frozen"), "shards": [shards],
        "prompts": ["describe"], "max_new_tokens": 6, "workers": {"num_workers": 2, "num_cpus": 0.5},
        "optimizer": {"batch_images": 4, "adapter_steps": 10, "gate_steps": 0},
    })  # fmt: skip
    _train(tmp_path / "frozen.yaml", frozen.model_dump_json())
    rows = [line.split(",")[:4] for line in (tmp_path / "frozen" / "log.csv").read_text().splitlines()[1:]]
    assert len({tuple(row) for row in rows}) == len(rows)
    assert ["adapters", "10", "losses", "exit_1"] in rows
    assert load_checkpoint(tmp_path / "frozen" / "checkpoint").config.thresholds is not None
