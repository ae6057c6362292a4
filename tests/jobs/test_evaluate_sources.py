"""`deed evaluate` and `deed calibrate` on every kind of source, with what is right as published data sets have it."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.checkpoint_files import read_model_config
from jobs.cli import main
from tests.integration.test_model import write_tiny_checkpoint
from tests.shards import image_bytes, write_tar

IMAGES = [image_bytes((20 * i, 90, 120)) for i in range(4)]
PEOPLE = [
    {"answer": text, "answer_confidence": "yes", "answer_id": i} for i, text in enumerate(["red"] * 7 + ["pink"] * 3)
]
SMALL = ("--set", "thresholds=[0.5]", "--set", "num_threads=1", "--set", "engine.generation.max_new_tokens=4")


def _parquet(folder: Path, **columns: list[Any]) -> str:
    pq.write_table(pa.table({"image": IMAGES, **columns}), folder / "data.parquet")
    return str(folder / "data.parquet")


def _jsonl(folder: Path, records: list[dict[str, Any]]) -> str:
    for i, image in enumerate(IMAGES):
        (folder / f"{i}.png").write_bytes(image)
    lines = [json.dumps({"uri": f"{i}.png", **record}) for i, record in enumerate(records)]
    (folder / "data.jsonl").write_text("\n".join(lines))
    return str(folder / "data.jsonl")


def _captions_in_parquet(folder: Path) -> tuple[str, ...]:
    return _parquet(folder, caption=[f"picture {i}" for i in range(4)]), "--target", "caption"


def _sidecars(folder: Path) -> tuple[str, ...]:
    (folder / "photos").mkdir()
    for i, image in enumerate(IMAGES):
        (folder / "photos" / f"{i}.png").write_bytes(image)
        (folder / "photos" / f"{i}.txt").write_text(f"picture {i}\n")
    return (str(folder / "photos"),)


def _coco(folder: Path) -> tuple[str, ...]:
    """As Karpathy's splits have them, in tars."""
    members = []
    for i, image in enumerate(IMAGES):
        record = {
            "imgid": i,
            "sentences": [{"tokens": ["a"], "raw": f"picture {i}"}, {"tokens": ["a"], "raw": "a photo"}],
        }
        members += [(f"{i}.png", image), (f"{i}.json", json.dumps(record).encode())]
    write_tar(folder / "coco.tar", members)
    return (str(folder / "coco.tar"),)


def _vqa(folder: Path) -> tuple[str, ...]:
    """As VQA v2: ten people's answers to a question."""
    record = {"question": "what colour is it?", "answers": PEOPLE, "multiple_choice_answer": "red"}
    return _jsonl(folder, [record] * 4), "--prompt", "{question}"


def _docvqa(folder: Path) -> tuple[str, ...]:
    columns = {"question": ["who?"] * 4, "answers": [["Ann", "Ann Lee"]] * 4, "docId": [1, 2, 3, 4]}
    return _parquet(folder, **columns), "--prompt", "{question}", "--target", "answers"


def _coco_file(folder: Path) -> tuple[str, ...]:
    """A folder of images, and captions in a file as COCO publishes them."""
    name = "COCO_val2014_{:012d}.png"
    (folder / "val2014").mkdir()
    for i, image in enumerate(IMAGES):
        (folder / "val2014" / name.format(i)).write_bytes(image)
    document = {
        "images": [{"id": i, "file_name": name.format(i)} for i in range(4)],
        "annotations": [
            {"image_id": i, "id": 9 * i + n, "caption": f"picture {i}"} for i in range(4) for n in range(2)
        ],
    }
    (folder / "captions.json").write_text(json.dumps(document))
    return str(folder / "val2014"), "--references", str(folder / "captions.json")


def _vqa_files(folder: Path) -> tuple[str, ...]:
    """Tars of images, and questions and what ten people answered in two files, as VQA v2 publishes them."""
    write_tar(folder / "v.tar", [(f"COCO_val2014_{i:012d}.png", image) for i, image in enumerate(IMAGES)])
    questions = [{"image_id": i, "question_id": 10 * i, "question": f"is it {i}?"} for i in range(4)]
    answers = [{"image_id": i, "question_id": 10 * i, "answers": PEOPLE} for i in range(4)]
    (folder / "questions.json").write_text(json.dumps({"questions": questions}))
    (folder / "annotations.json").write_text(json.dumps({"annotations": answers}))
    files = (str(folder / "questions.json"), str(folder / "annotations.json"))
    return str(folder / "v.tar"), "--references", *files, "--prompt", "{question}"


CAPTIONS = ("caption_cider_d", "caption_rouge_l", "caption_exact")
ANSWERS = ("answer_exact", "answer_anls", "answer_vqa")
SOURCES = {
    _captions_in_parquet: (CAPTIONS, ANSWERS), _sidecars: (CAPTIONS, ANSWERS), _coco: (CAPTIONS, ANSWERS),
    _vqa: (ANSWERS, CAPTIONS), _docvqa: (ANSWERS, CAPTIONS), _coco_file: (CAPTIONS, ANSWERS),
    _vqa_files: (ANSWERS, CAPTIONS),
}  # fmt: skip


@pytest.mark.parametrize("make", SOURCES, ids=lambda make: make.__name__.lstrip("_"))
def test_any_source_with_what_is_right(make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = str(write_tiny_checkpoint(tmp_path / "checkpoint"))
    source, *asked = make(tmp_path)
    numbers = tmp_path / "numbers" / "of it.json"
    assert main(["evaluate", source, "--checkpoint", checkpoint, *asked, "--out", str(numbers), *SMALL]) == 0
    document = json.loads(numbers.read_text())
    assert (document["num_images"], document["num_prompts"]) == (4, 4)
    assert {part["reason"] for part in document["left_out"]} <= {"sidecar_files"}  # which are no images
    assert document["source"] == [source]
    scored, not_scored = SOURCES[make]
    for row in document["rows"]:
        assert all(row[name] is not None for name in scored), row
        assert all(row[name] is None for name in not_scored), row
    assert [row["label"] for row in document["rows"]][-1] == "threshold 0.5"
    capsys.readouterr()
    calm = ("--set", "risks=[0.1]", "--set", "max_points_lost=100", "--set", "check_images=2", "--set", "num_threads=1")
    before = read_model_config(checkpoint).thresholds
    assert main(["calibrate", source, "--checkpoint", checkpoint, *asked, *calm]) == 0
    assert read_model_config(checkpoint).thresholds not in (None, before)
    assert "of 4 images recorded" in capsys.readouterr().out


def test_texts_are_scored_against_those_of_their_own_row(tmp_path: Path) -> None:
    """What the model says of each image is what is right for it: a perfect score, and none for its neighbour."""
    checkpoint = str(write_tiny_checkpoint(tmp_path / "checkpoint"))
    from actors.training.evaluation import predict, read_labelled
    from conf.engine import EngineConfig
    from conf.evaluation import EvaluateConfig

    source = _parquet(tmp_path, caption=["x"] * 4)
    config = EvaluateConfig.model_validate({"checkpoint": checkpoint, "source": {"kind": "parquet", "paths": [source]}})
    labelled = read_labelled(config)
    engine = EngineConfig.model_validate({"schedule": "full", "generation": {"max_new_tokens": 6}})
    said = [prediction.text.strip() for prediction in predict(labelled, engine, labelled.images)]
    assert len(set(said)) > 1
    for texts, perfect in ((said, True), (said[1:] + said[:1], False)):
        source = _parquet(tmp_path, caption=texts)
        arguments = (
            "--set",
            "static_exits=false",
            "--set",
            "engine.generation.max_new_tokens=6",
            "--set",
            "thresholds=[]",
        )
        numbers = str(tmp_path / "numbers.json")
        assert main(["evaluate", source, "--checkpoint", checkpoint, "--out", numbers, *arguments]) == 0
        full = json.loads(Path(numbers).read_text())["rows"][0]
        assert (full["caption_exact"] == 1.0) is perfect


def test_what_cannot_be_scored_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [*IMAGES[:3], b"no image"]
    table = pa.table({"image": images, "text": ["a", None, "b", "c"], "kind": ["x", "x", "y", "y"]})
    pq.write_table(table, tmp_path / "data.parquet")
    checkpoint, numbers = str(write_tiny_checkpoint(tmp_path / "checkpoint")), tmp_path / "numbers.json"
    command = ["evaluate", str(tmp_path / "data.parquet"), "--checkpoint", checkpoint, "--target", "text", *SMALL]
    assert main([*command, "--out", str(numbers)]) == 0
    document = json.loads(numbers.read_text())
    assert document["num_images"] == 2
    assert sorted(part["count"] for part in document["left_out"]) == [1, 1]
    assert "no_label" in {part["reason"] for part in document["left_out"]}
    assert "not scored" in capsys.readouterr().err


def test_every_question_of_a_file_is_asked_of_its_image(tmp_path: Path) -> None:
    from actors.training.evaluation import read_labelled
    from conf.evaluation import EvaluateConfig

    (tmp_path / "photos").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "photos" / f"{name}.png").write_bytes(IMAGES[0])
    answers = [("what is it?", ["a dog"]), ("who?", ["Ann", "Ann Lee"])]
    data = [{"image": "a.png", "question": question, "answers": own} for question, own in answers]
    (tmp_path / "qa.json").write_text(json.dumps({"data": [*data, {**data[0], "image": "b.png"}]}))
    config = EvaluateConfig.model_validate({
        "checkpoint": str(write_tiny_checkpoint(tmp_path / "checkpoint")),
        "source": {"kind": "images", "paths": [str(tmp_path / "photos")], "prompt": {"template": "Q: {question}"}},
        "target": {"references": [str(tmp_path / "qa.json")]},
    })  # fmt: skip
    labelled = read_labelled(config)
    said = [(row.key, row.prompt, row.reference.texts) for row in labelled.images.rows if row.reference]
    assert said == [
        ("a.png", "Q: what is it?", ("a dog",)), ("a.png", "Q: who?", ("Ann", "Ann Lee")),
        ("b.png", "Q: what is it?", ("a dog",)),
    ]  # fmt: skip
    assert [(part.reason, part.count) for part in labelled.left_out] == [("no_prompt", 1)]


def test_a_file_that_knows_no_image_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, *arguments = _coco_file(tmp_path)
    (tmp_path / "captions.json").write_text(json.dumps([{"image": "elsewhere.png", "caption": "a"}]))
    checkpoint = str(write_tiny_checkpoint(tmp_path / "checkpoint"))
    assert main(["evaluate", source, "--checkpoint", checkpoint, *arguments]) == 2
    said = capsys.readouterr().err
    assert "knows no image of the source: its images are elsewhere.png" in said
    assert said.count("\n") == 1


MISTAKES = [
    (("--target", "captoin"), "target.field names 'captoin', which is no column of"),
    (("--prompt", "{quesiton}"), "source.prompt.template names 'quesiton', which is no column of"),
    (("--target", "empty"), "no labelled images in"),
    (("--set", "group_by=[hrad]"), "group_by names 'hrad', which no sample has"),
    (("--references", "nowhere.json"), "nowhere.json"),
    (("--set", "target.run=runs/x"), "scores need what is right"),
    (("--set", "tasks=[{prompt: {template: '{qustion}'}}]"), "tasks[0].prompt.template names 'qustion'"),
]


@pytest.mark.parametrize(("arguments", "sentence"), MISTAKES)
def test_mistakes_are_one_sentence(
    arguments: tuple[str, ...], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(write_tiny_checkpoint(tmp_path / "checkpoint"))
    source = _parquet(tmp_path, caption=["a"] * 4, empty=[""] * 4)
    assert main(["evaluate", source, "--checkpoint", checkpoint, *arguments]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("exits", "sentence"), [("[1,9]", "must increase and end with 5"), ("[5]", "no exit to choose")]
)
def test_exits_that_the_checkpoint_does_not_have(
    exits: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(write_tiny_checkpoint(tmp_path / "checkpoint"))
    source = _parquet(tmp_path, caption=["a"] * 4)
    assert main(["calibrate", source, "--checkpoint", checkpoint, "--set", f"exits={exits}"]) == 2
    assert sentence in capsys.readouterr().err
