"""The paper's two architectures from training to published captions, by the shipped configuration files alone."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from conf.checkpoint_files import read_model_config
from jobs.cli import main
from tests.actors.training.corpus import write_corpus

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.usefixtures("ray"),
]

CONF = Path(__file__).parents[2] / "conf"
NUM_IMAGES = 24
SMALL = (  # the shape of the model and the length of the run; everything else is the file's
    "precision=float32", "device=cpu", "num_threads=1", "tokenizer.vocab_size=300", "architecture.image_size=32",
    "architecture.d_model=32", "architecture.num_heads=2", "architecture.d_ff=64", "architecture.encoder_layers=1",
    "architecture.decoder_layers=3", "architecture.stem_channels=[4,8,16]", "architecture.max_positions=32",
    "optimizer.batch_images=8", "optimizer.total_steps=60", "optimizer.warmup_steps=2", "optimizer.peak_lr=5e-3",
)  # fmt: skip


def deed(command: str, file: str, *settings: str) -> None:
    assert main([command, "--config", str(CONF / file), *(x for s in settings for x in ("--set", s))]) == 0


@pytest.mark.parametrize("kind", ["latr", "ofa"])
def test_trained_calibrated_and_run_by_configuration_alone(kind: str, tmp_path: Path) -> None:
    shards, run = write_corpus(tmp_path / "corpus", NUM_IMAGES), tmp_path / "run"
    checkpoint = run / "checkpoint"
    deed(
        "train", f"train-{kind}.yaml", *SMALL, f"output={run}", f"data.train=[{shards}]", f"data.validation=[{shards}]"
    )
    assert read_model_config(checkpoint).family == kind
    losses = [line.split(",") for line in (run / "log.csv").read_text().splitlines() if ",losses,loss," in line]
    assert float(losses[-1][-1]) < 0.7 * float(losses[0][-1])

    words = ("source.prompt.words_field=sign.plates",) if kind == "latr" else ()
    deed(
        "calibrate", "calibrate.yaml", f"checkpoint={checkpoint}", f"source.paths=[{shards}]", "exits=null",
        "source.prompt.template=describe", "prompts_per_image=1", "max_points_lost=100", "check_images=4",
        "num_threads=1", *words,
    )  # fmt: skip
    deed(
        "caption", "caption.yaml", f"source.paths=[{shards}]", "source.prompt.template=describe", "model.device=cpu",
        f"model.checkpoint={checkpoint}", f"output.path={run}/captions", "engine.generation.max_new_tokens=12",
        "engine.num_slots=4", *words,
    )  # fmt: skip
    rows = pq.read_table(run / "captions" / "results").to_pylist()
    assert len(rows) == NUM_IMAGES
    assert all(row["text"].startswith("a ") for row in rows)  # as every caption it has seen
    assert {row["prompt"].split("\n")[0] for row in rows} == {"describe"}
    assert any("\t" in row["prompt"] for row in rows) == (kind == "latr")  # the words in the image came along
