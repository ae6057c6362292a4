"""`deed train`, `deed calibrate` and `deed evaluate` in a row, on a tiny corpus, through the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from actors.training.corpus import LabelledCorpus
from actors.training.evaluation import first_samples
from conf.checkpoint_files import read_model_config
from conf.image_plan import ImagePlan
from jobs.cli import main
from tests.actors.training.corpus import tiny_config, write_corpus
from tests.integration.test_model import write_tiny_checkpoint
from tests.shards import image_bytes, write_tar


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
    assert capsys.readouterr().err == "deed train: no shard matches 'none/*.tar'\n"
    assert not (tmp_path / "run").exists()


def _own_shard(path: Path, *records: object) -> None:
    members = [("a.png", image_bytes((9, 9, 9)))]  # an image without labels
    for number, record in enumerate(records):
        members += [(f"{number}.png", image_bytes((number, 9, 9))), (f"{number}.json", json.dumps(record).encode())]
    write_tar(path, members)


def _evaluate(folder: Path, **changes: object) -> tuple[int, list[dict[str, Any]]]:
    if not (folder / "checkpoint").is_dir():
        write_tiny_checkpoint(folder / "checkpoint")
    settings = {
        "checkpoint": str(folder / "checkpoint"), "shards": [str(folder / "*.tar")], "num_threads": 1,
        "caption_prompt": "is it", "output": str(folder / "numbers.json"), "thresholds": [],
    }  # fmt: skip
    (folder / "evaluate.yaml").write_text(yaml.safe_dump({**settings, **changes}))
    code = main(["evaluate", "--config", str(folder / "evaluate.yaml")])
    return code, json.loads((folder / "numbers.json").read_text())["rows"] if code == 0 else []


def test_full_depth_alone_is_one_row(tmp_path: Path) -> None:
    _own_shard(tmp_path / "own.tar", {"captions": ["a cat"]})
    write_tiny_checkpoint(tmp_path / "checkpoint", thresholds=None)
    code, rows = _evaluate(tmp_path, static_exits=False)
    assert (code, [row["label"] for row in rows]) == (0, ["full depth"])


def test_labels_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _own_shard(tmp_path / "own.tar", {"captions": ["a cat", "one cat"]}, {"qa": [{"question": "what?", "answer": "x"}]},
               {"qa": [{"question": "who?", "answers": ["a", "b"]}]}, {"title": "nothing to score"})  # fmt: skip
    code, rows = _evaluate(tmp_path)
    assert code == 0
    assert "3 images, 3 prompts" in capsys.readouterr().out
    assert rows[0]["caption_f1"] is None  # nobody said which objects are there
    assert rows[0]["vqa_anls"] is not None
    assert rows[0]["vqa_hard"] is None


def test_keys_that_shards_share_are_other_samples(tmp_path: Path) -> None:
    for shard in range(2):
        _own_shard(tmp_path / f"{shard}.tar", *({"captions": [f"text {shard}{n}"]} for n in range(2)))
    samples = first_samples(LabelledCorpus([str(tmp_path / "*.tar")]), 3, ImagePlan.squeeze(32))
    assert [(s.key, s.record["captions"][0]["text"]) for s in samples] == [
        ("0", "text 00"), ("1", "text 01"), ("0~2", "text 10"),
    ]  # fmt: skip


@pytest.mark.parametrize("record", [{"captions": [3]}, {"qa": ["what?"]}, {"qa": [{"question": "what?"}]}, [1]])
def test_labels_of_another_form_are_one_sentence(
    record: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _own_shard(tmp_path / "own.tar", record)
    assert _evaluate(tmp_path) == (2, [])
    said = capsys.readouterr().err
    assert "own/0.json must hold `captions`" in said
    assert said.count("\n") == 1


def test_shards_without_labels_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _own_shard(tmp_path / "own.tar")
    assert _evaluate(tmp_path) == (2, [])
    assert "no labelled images in" in capsys.readouterr().err
