"""`deed train` over Parquet with a caption column and over a folder with text files, killed and run again."""

import io
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from actors.model.checkpoint import load_checkpoint
from actors.training.pretrained.record import TrainingRecord
from jobs.cli import main
from tests.actors.interop.sources import make_source

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted vision-encoder-decoder, and the same captioned pictures as Parquet and as a folder."""
    root = tmp_path_factory.mktemp("any_source")
    make_source("trocr", root / "source", seed=2)
    assert main(["convert", str(root / "source"), str(root / "checkpoint"), "--exits", "1,2,3"]) == 0
    rng, images, captions = np.random.default_rng(0), [], []
    for i in range(40):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (20, 16, 3), dtype=np.uint8)).save(buffer, "PNG")
        images.append(buffer.getvalue())
        captions.append(f"w{i % 5} w{i % 3} w7")
    pq.write_table(pa.table({"image": images, "caption": captions}), root / "pictures.parquet", row_group_size=10)
    (root / "photos").mkdir()
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        (root / "photos" / f"{i:03d}.png").write_bytes(image)
        (root / "photos" / f"{i:03d}.txt").write_text(caption)
    return root


def command(corpus: Path, source: str, target: str, out: Path) -> list[str]:
    settings = [
        "optimizer.total_steps=14", "optimizer.batch_images=8", "optimizer.warmup_steps=2", "save_every=3",
        "validate_every=100", "validation_images=6", "test_images=6", "max_new_tokens=8", "num_slots=4", "device=cpu",
        "num_threads=1", "max_points_lost=100", "loading.threads=1", "loading.shuffle_images=12", "num_threads=1",
    ]  # fmt: skip
    options = [option for setting in settings for option in ("--set", setting)]
    where = ["--checkpoint", str(corpus / "checkpoint"), "--out", str(out)]
    return ["train", str(corpus / source), *where, "--target", target, *options]


@pytest.mark.parametrize(("source", "target"), [("pictures.parquet", "caption"), ("photos", "txt"), ("photos", "auto")])
def test_killed_and_run_again_it_ends_with_the_same_weights(
    corpus: Path, tmp_path: Path, source: str, target: str
) -> None:
    assert main(command(corpus, source, target, tmp_path / "straight")) == 0
    line = command(corpus, source, target, tmp_path / "killed")
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", *line], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(tmp_path / "killed" / "state" / "position.json", process)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "checkpoint").exists()
    assert main(line) == 0
    weights = [(tmp_path / run / "checkpoint" / "model.safetensors").read_bytes() for run in ("straight", "killed")]
    assert weights[0] == weights[1]
    before, after = (load_checkpoint(path) for path in (corpus / "checkpoint", tmp_path / "killed" / "checkpoint"))
    assert after.sha256 != before.sha256
    assert after.config.thresholds is not None
    record = TrainingRecord.read(tmp_path / "killed" / "checkpoint")
    assert record is not None
    assert record.data.targets[0].field == target
    assert (record.data.training_images, record.data.validation_images, record.data.test_images) == (28, 6, 6)
    logs = [(tmp_path / run / "log.csv").read_text().splitlines() for run in ("straight", "killed")]
    numbers = [[line for line in log if not line.startswith("saved,")] for log in logs]  # times are what they are
    assert numbers[0] == numbers[1]


def _wait_for(path: Path, process: "subprocess.Popen[bytes]", limit_s: float = 120.0) -> None:
    deadline = time.monotonic() + limit_s
    while not path.exists():
        assert process.poll() is None, "it ended before anything was saved"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_mistakes_are_one_sentence(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = command(corpus, "photos", "nosuchfield", tmp_path / "a")
    assert main(line) == 2
    assert "nosuchfield" in (said := capsys.readouterr().err)
    assert "Traceback" not in said
    line = command(corpus, "photos", "txt", tmp_path / "b")
    assert main([*line, "--set", "optimizer.batch_images=64"]) == 2
    assert "fewer than one step takes, 64" in capsys.readouterr().err
    assert main([*line, "--set", "exits=[2]"]) == 2
    assert "exits must be increasing layers that end with" in capsys.readouterr().err
    assert main([*line, "--checkpoint", str(corpus / "source")]) == 2
    assert "deed convert makes a checkpoint of it" in capsys.readouterr().err
