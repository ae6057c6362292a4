"""`deed train`, `deed calibrate` and `deed evaluate` in a row, on a tiny corpus, through the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from actors.training.evaluation import read_labelled
from conf.checkpoint_files import read_model_config
from conf.evaluation import EvaluateConfig
from jobs.cli import main
from tests.actors.training.corpus import tiny_config, write_corpus
from tests.integration.test_model import write_tiny_checkpoint
from tests.shards import image_bytes, write_tar

SCORED = {
    "target": {"field": "captions"},
    "tasks": [{"prompt": {"list_field": "qa", "template": "{question}"}}],
    "group_by": ["hard"],
}


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
                **SCORED,
                "source": {"paths": [shards], "prompt": {"template": "describe"}},
                "max_images": 16,
                "check_images": 8,
                "num_threads": 1,
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
                **SCORED,
                "source": {"paths": [shards], "prompt": {"template": "describe"}},
                "max_images": 8,
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
    assert rows["full depth"]["answer_anls"] >= rows["full depth"]["answer_exact"]
    assert [rows[label]["mean_depth"] for label in list(rows)[:3]] == [3.0, 1.0, 2.0]
    assert rows["full depth"]["equal_outputs"] == 1.0
    assert 0.4 < rows["full depth"]["answer_exact"] <= 1.0  # it has seen every colour
    for row in rows.values():
        assert [group["count"] for group in row["groups"]["hard"].values()] == [8, 8]
        by_hard = [group["exact"] for group in row["groups"]["hard"].values()]
        assert sum(by_hard) / 2 == pytest.approx(row["answer_exact"])
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


def _evaluate(folder: Path, *arguments: str, **changes: object) -> tuple[int, dict[str, Any]]:
    """Score a tiny checkpoint on the source in `changes`, or on the tars of the folder."""
    if not (folder / "checkpoint").is_dir():
        write_tiny_checkpoint(folder / "checkpoint")
    settings = {
        "checkpoint": str(folder / "checkpoint"), "source": {"paths": [str(folder / "*.tar")]}, "num_threads": 1,
        "output": str(folder / "numbers.json"), "thresholds": [], "engine": {"generation": {"max_new_tokens": 4}},
    }  # fmt: skip
    (folder / "evaluate.yaml").write_text(yaml.safe_dump({**settings, **changes}))
    code = main(["evaluate", "--config", str(folder / "evaluate.yaml"), *arguments])
    return code, json.loads((folder / "numbers.json").read_text()) if code == 0 else {}


def test_full_depth_alone_is_one_row(tmp_path: Path) -> None:
    _own_shard(tmp_path / "own.tar", {"captions": ["a cat"]})
    write_tiny_checkpoint(tmp_path / "checkpoint", thresholds=None)
    code, numbers = _evaluate(tmp_path, static_exits=False)
    assert (code, [row["label"] for row in numbers["rows"]]) == (0, ["full depth"])


def test_labels_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _own_shard(tmp_path / "own.tar", {"captions": ["a cat", "one cat"]}, {"qa": [{"question": "what?", "answer": "x"}]},
               {"qa": [{"question": "who?", "answers": ["a", "b"]}]}, {"title": "nothing to score"})  # fmt: skip
    code, numbers = _evaluate(tmp_path, tasks=SCORED["tasks"], static_exits=False)
    row = numbers["rows"][0]
    assert code == 0
    assert "3 images, 3 prompts" in capsys.readouterr().out
    assert row["caption_f1"] is None  # nobody said which objects are there
    assert row["answer_anls"] is not None
    reasons = {part["reason"]: part["count"] for part in numbers["left_out"]}
    assert reasons == {"no_label": 4, "no_prompt": 3}  # captions of four images, questions of three


def test_the_first_images_in_the_order_of_the_source_are_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for shard in range(3):
        records = [{"captions": [f"text {shard}{n}"], "shard": shard} for n in range(2)]
        write_tar(
            tmp_path / f"{shard}.tar",
            [
                member
                for n, record in enumerate(records)
                for member in ((f"{n}.png", image_bytes((n, 9, 9))), (f"{n}.json", json.dumps(record).encode()))
            ],
        )
    config = EvaluateConfig.model_validate(
        {"checkpoint": str(write_tiny_checkpoint(tmp_path / "checkpoint")), "max_images": 3,
         "source": {"paths": [str(tmp_path / "*.tar")]}}
    )  # fmt: skip
    texts = [row.reference.texts for row in read_labelled(config).images.rows if row.reference]
    assert texts == [("text 00",), ("text 01",), ("text 10",)]
    other = config.model_copy(update={"shard_order": "random", "seed": 3})
    texts = [row.reference.texts for row in read_labelled(other).images.rows if row.reference]
    assert texts != [("text 00",), ("text 01",), ("text 10",)]


def test_the_first_prompts_of_each_task_are_asked(tmp_path: Path) -> None:
    questions = [{"question": f"what is {n}?", "answer": str(n)} for n in range(5)]
    _own_shard(tmp_path / "own.tar", {"captions": ["a cat"], "qa": questions})
    config = EvaluateConfig.model_validate(
        {"checkpoint": str(write_tiny_checkpoint(tmp_path / "checkpoint")), "prompts_per_image": 2,
         "source": {"paths": [str(tmp_path / "*.tar")]}, "tasks": SCORED["tasks"]}
    )  # fmt: skip
    rows = read_labelled(config).images.rows
    assert [(row.prompt, row.reference.texts) for row in rows if row.reference] == [
        ("describe the image", ("a cat",)), ("what is 0?", ("0",)), ("what is 1?", ("1",)),
    ]  # fmt: skip


@pytest.mark.parametrize("record", [{"captions": [3]}, {"qa": [{"question": "what?"}]}, [1], {"title": "x"}])
def test_a_source_without_labels_is_one_sentence(
    record: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _own_shard(tmp_path / "own.tar", record)
    assert _evaluate(tmp_path) == (2, {})
    said = capsys.readouterr().err
    assert "no labelled images in" in said
    assert "2 no label" in said
    assert said.count("\n") == 1
