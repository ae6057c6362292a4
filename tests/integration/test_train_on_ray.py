"""Two workers of Ray Train share a run and leave a checkpoint that loads; a signal ends it as it ends one worker."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from actors.model.checkpoint import load_checkpoint
from conf.pretrained import PretrainedConfig
from jobs.cli import main
from tests.actors.interop.sources import make_source
from tests.actors.training.corpus import tiny_config, write_corpus
from tests.integration.processes import children_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
WORKERS = {"num_workers": 2, "num_cpus": 0.5}


def _start(path: Path, config_json: str) -> "subprocess.Popen[str]":
    path.write_text(config_json)
    command = [sys.executable, "-m", "jobs.cli", "train", "--config", str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _train(path: Path, config_json: str, code: int = 0) -> str:
    process = _start(path, config_json)
    said = process.communicate()[0]
    assert process.returncode == code, said
    assert "Failed to query" not in said
    return said


def test_two_workers(tmp_path: Path) -> None:
    shards = write_corpus(tmp_path / "corpus", 16)
    config = tiny_config(
        tmp_path / "run", shards, workers=WORKERS, loss={"grounding_weight": 0.0}, validate_every=6
    )  # fmt: skip
    _train(tmp_path / "train.yaml", config.model_dump_json())
    assert json.loads((tmp_path / "run" / "state" / "position.json").read_text())["step"] == 12
    reports = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [report["step"] for report in reports if "validation" in report] == [6, 12]  # one worker reports
    assert load_checkpoint(tmp_path / "run" / "checkpoint").config.exits == (1, 2, 3)


def test_what_no_worker_can_do_is_said_in_one_sentence(tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "run", write_corpus(tmp_path / "corpus", 4), workers=WORKERS)
    nowhere = config.data.model_copy(update={"validation": (str(tmp_path / "nowhere" / "*.tar"),)})
    said = _train(tmp_path / "train.yaml", config.model_copy(update={"data": nowhere}).model_dump_json(), code=2)
    assert "deed train: no shard matches" in said
    assert 'jobs/cli.py", line' not in said, "helpers of Ray may print tracebacks as they are ended, the command none"


def test_two_workers_learn_what_the_model_says_itself_and_are_told_what_it_lost(tmp_path: Path) -> None:
    shards = write_corpus(tmp_path / "corpus", 16)
    make_source("pix2struct", tmp_path / "source", seed=4)
    assert main(["convert", str(tmp_path / "source"), str(tmp_path / "converted"), "--exits", "1,2,3"]) == 0
    ruinous = {"total_steps": 2, "warmup_steps": 1, "decoder_lr": 0.3, "head_lr": 0.3}
    deep = PretrainedConfig.model_validate({
        "checkpoint": str(tmp_path / "converted"), "output": str(tmp_path / "deep"), "workers": WORKERS,
        "source": {"paths": [shards], "chunk_rows": 4}, "max_new_tokens": 8, "max_points_lost": 0.0,
        "validation_images": 3, "test_images": 3, "device": "cpu", "num_threads": 1,
        "optimizer": {"batch_images": 4, **ruinous},
    })  # fmt: skip
    said = _train(tmp_path / "deep.yaml", deep.model_dump_json(), code=8)
    assert f"16 texts to learn from: {tmp_path}/deep/targets" in said
    assert "deed train: full depth lost " in said
    rows = [line.split(",")[:4] for line in (tmp_path / "deep" / "log.csv").read_text().splitlines()[1:]]
    assert len({tuple(row) for row in rows}) == len(rows)
    assert ["exits", "2", "losses", "exit_1"] in rows
    assert load_checkpoint(tmp_path / "deep" / "checkpoint").config.thresholds is not None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_group_and_the_same_command_continues(tmp_path: Path, number: signal.Signals) -> None:
    shards = write_corpus(tmp_path / "corpus", 16)
    long = {"batch_images": 4, "total_steps": 100_000, "warmup_steps": 2, "peak_lr": 3e-3}
    config = tiny_config(
        tmp_path / "run", shards, workers=WORKERS, loss={"grounding_weight": 0.0}, save_every=2, optimizer=long
    )  # fmt: skip
    process, position = _start(tmp_path / "train.yaml", config.model_dump_json()), tmp_path / "run" / "state"
    try:
        deadline = time.monotonic() + 200
        while not (position / "position.json").is_file():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        workers = children_of(process.pid)
        process.send_signal(number)
        said = process.communicate(timeout=100)[0]
    finally:
        process.kill()
    assert process.returncode == 128 + number, said
    assert f"deed train: stopped by {number.name}; run the same command again to continue" in said
    assert 'jobs/cli.py", line' not in said, "helpers of Ray may print tracebacks as they are ended, the command none"
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()], "workers outlive the run"
    saved = json.loads((position / "position.json").read_text())["step"]
    short = {**long, "total_steps": saved + 2}
    _train(tmp_path / "train.yaml", config.model_copy(
        update={"optimizer": config.optimizer.model_validate(short)}
    ).model_dump_json())  # fmt: skip
    assert json.loads((position / "position.json").read_text())["step"] == saved + 2
