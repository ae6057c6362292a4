"""`deed train`, `deed calibrate` and `deed evaluate` in a row, on a tiny corpus, through the command line."""

import json
from pathlib import Path

import pytest
import yaml

from conf.model import read_model_config
from jobs.cli import main
from tests.actors.training.corpus import tiny_config, write_corpus


def test_train_then_calibrate_then_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = write_corpus(tmp_path / "corpus", 32)
    optimizer = {"batch_images": 8, "total_steps": 80, "warmup_steps": 5, "peak_lr": 5e-3}
    config = tiny_config(tmp_path / "run", shards, optimizer=optimizer)
    training = tmp_path / "train.yaml"
    training.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert main(["train", "--config", str(training)]) == 0
    checkpoint = tmp_path / "run" / "checkpoint"
    assert read_model_config(checkpoint).thresholds is None

    settings = tmp_path / "calibrate.yaml"
    settings.write_text(
        yaml.safe_dump(
            {
                "checkpoint": str(checkpoint),
                "shards": [shards],
                "num_images": 16,
                "check_images": 8,
                "num_threads": 1,
                "questions_per_image": 2,
                "caption_prompt": "describe",
                "risks": [0.0, 0.05],
                "max_points_lost": 100,
                "num_slots": 4,
            }
        )
    )
    assert main(["calibrate", "--config", str(settings)]) == 0
    thresholds = read_model_config(checkpoint).thresholds
    assert thresholds is not None
    assert len(thresholds) == 2

    numbers = tmp_path / "numbers.json"
    settings.write_text(
        yaml.safe_dump(
            {
                "checkpoint": str(checkpoint),
                "shards": [shards],
                "num_images": 8,
                "questions_per_image": 2,
                "caption_prompt": "describe",
                "output": str(numbers),
                "thresholds": [0.0, 0.9, 1.0],
                "num_threads": 1,
                "engine": {"generation": {"max_new_tokens": 30}},
            }
        )
    )
    assert main(["evaluate", "--config", str(settings)]) == 0
    rows = {row["label"]: row for row in json.loads(numbers.read_text())["rows"]}
    swept = ["threshold 0", "threshold 0.9", "threshold 1"]
    assert list(rows) == ["full depth", "exit 1 alone", "exit 2 alone", "early exit", *swept]
    depths = [rows[label]["mean_depth"] for label in swept]
    assert depths == sorted(depths)
    assert depths[0] == 1.0  # every token leaves at the first exit
    assert rows["full depth"]["vqa_anls"] >= rows["full depth"]["vqa_accuracy"]
    assert [rows[label]["mean_depth"] for label in list(rows)[:3]] == [3.0, 1.0, 2.0]
    assert rows["full depth"]["equal_outputs"] == 1.0
    assert 0.4 < rows["full depth"]["vqa_accuracy"] <= 1.0  # it has seen every colour
    assert "early exit" in capsys.readouterr().out


def test_a_missing_corpus_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tmp_path / "train.yaml"
    settings.write_text(yaml.safe_dump(tiny_config(tmp_path / "run", "none/*.tar").model_dump(mode="json")))
    assert main(["train", "--config", str(settings)]) == 2
    assert capsys.readouterr().err == "deed train: no training shards match none/*.tar\n"
    assert not (tmp_path / "run").exists()
