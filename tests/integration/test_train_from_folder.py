"""`deed train FOLDER --checkpoint MODEL --out RUN` as a person runs it: photographs, no labels, no configuration."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from actors.model.checkpoint import load_checkpoint
from jobs.cli import main
from tests.actors.interop.sources import make_source
from tests.integration.processes import kill_tree

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
STEPS = 60
SMALL = {
    "source.chunk_rows": 4, "validation_images": 6, "test_images": 6, "max_new_tokens": 8, "num_slots": 4,
    "device": "cpu", "num_threads": 1, "max_points_lost": 100, "save_every": 5, "validate_every": 20,
    "optimizer.batch_images": 8, "optimizer.total_steps": STEPS, "loss.layer_dropout": 0.2,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted random Pix2Struct, photographs, and a file that is none; and an uninterrupted run over them."""
    root = tmp_path_factory.mktemp("train")
    make_source("pix2struct", root / "source", seed=4)
    assert main(["convert", str(root / "source"), str(root / "converted"), "--exits", "1,2,3"]) == 0
    (root / "photos").mkdir()
    rng = np.random.default_rng(0)
    for number in range(40):
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "photos" / f"{number:02d}.png")
    (root / "photos" / "broken.jpg").write_bytes(b"no image")
    done = start(root, "whole").communicate(timeout=300)[0]
    assert (root / "whole" / "checkpoint").is_dir(), done
    return root


def start(root: Path, out: str, **changes: Any) -> "subprocess.Popen[str]":
    sets = [word for key, value in {**SMALL, **changes}.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    command = ["train", "./photos", "--checkpoint", "converted", "--out", out, *sets]
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from jobs.cli import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", code, *command], cwd=root, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def wait_until(reached: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 240
    while not reached():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "no progress"
        time.sleep(0.02)


def chunks(run: Path) -> int:
    """Chunks of the targets' run that are committed."""
    return len(list(run.glob("targets/_staging/*/*/chunk-*")))


def step(run: Path) -> int:
    path = run / "state" / "position.json"
    return int(json.loads(path.read_text())["step"]) if path.is_file() else 0


def test_photographs_without_a_label_give_a_model_that_exits_early(folder: Path) -> None:
    trained = load_checkpoint(folder / "whole" / "checkpoint")
    assert trained.config.untrained_exits == ()
    assert len(trained.config.thresholds or ()) == 2
    said = pq.read_table(folder / "whole" / "targets" / "results").to_pylist()
    assert {row["key"] for row in said} == {f"{number:02d}.png" for number in range(40)}
    assert {layer for row in said for layer in row["exit_layers"]} == {3}, "texts are those of full depth"
    (failed,) = pq.read_table(folder / "whole" / "targets" / "errors").to_pylist()
    assert failed["key"] == "broken.jpg"
    assert "train,60,left_out,no_text,1" in (folder / "whole" / "log.csv").read_text()


def test_a_run_that_is_killed_twice_ends_with_the_same_weights(folder: Path) -> None:
    """While the texts are written, and in the middle of training."""
    run = folder / "killed"
    for reached in (lambda: chunks(run) >= 2, lambda: step(run) >= 10):
        process = start(folder, "killed")
        try:
            wait_until(reached, process)
        finally:
            kill_tree(process.pid)
            process.communicate()
    assert json.loads((run / "targets" / "run.json").read_text())["status"] == "complete"
    assert 10 <= step(run) < STEPS
    process = start(folder, "killed")
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert f"from step {step(run)}" not in said
    invocations = json.loads((run / "targets" / "run.json").read_text())["time"]["invocations"]
    assert [note["ended"] for note in invocations] == [False, True], "a run that is complete is not begun again"
    weights = [load_checkpoint(folder / name / "checkpoint").sha256 for name in ("whole", "killed")]
    assert weights[0] == weights[1]
    logs = [
        [line for line in (folder / name / "log.csv").read_text().splitlines() if not line.startswith("saved,")]
        for name in ("whole", "killed")
    ]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_texts_are_written_ends_the_command(folder: Path, number: signal.Signals) -> None:
    out = f"stopped-{number.name}"
    process = start(folder, out, **{"source.chunk_rows": 1})
    try:
        wait_until(lambda: chunks(folder / out) >= 2, process)
        process.send_signal(number)
        said = process.communicate(timeout=60)[0]
    finally:
        process.kill()
    assert process.returncode == 128 + number, said
    assert f"deed train: stopped by {number.name}; run the same command again to continue" in said
    assert 'jobs/cli.py", line' not in said, "helpers of Ray may print tracebacks as they are ended, the command none"
    assert json.loads((folder / out / "targets" / "run.json").read_text())["status"] == "interrupted"
