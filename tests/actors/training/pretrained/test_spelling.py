"""Labels are spelled as the model spells what it says: with a space before the first word, or without."""

from dataclasses import replace
from pathlib import Path

import pytest

from actors.engine.request import Completion, FinishReason
from actors.model.checkpoint import Checkpoint, load_checkpoint
from actors.training.pretrained import spelling
from actors.training.pretrained.held_out import HeldOut
from actors.training.pretrained.spelling import learn_spelling
from actors.training.rows.row import ImageRows, Row
from actors.training.rows.targets import Targets
from conf.engine import EngineConfig
from conf.rows import TargetConfig, TaskConfig
from conf.schema import PreprocessConfig
from conf.source import PromptConfig
from jobs.cli import main
from pipeline.source.references import Kind, Reference
from tests.shards import image_bytes

TRAINED = Path(__file__).parents[2] / "interop" / "trained" / "pix2struct"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A model with a byte-level tokenizer, converted."""
    folder = tmp_path_factory.mktemp("spelling") / "checkpoint"
    assert main(["convert", str(TRAINED), str(folder)]) == 0
    loaded = load_checkpoint(folder)
    assert loaded.codec.encode("an apple") != loaded.codec.encode(" an apple")
    return loaded


def held_out(checkpoint: Checkpoint) -> HeldOut:
    row = Row("a", "0", "a/0", 0, 0, "", Reference(Kind.CAPTION, ("an apple in green",)), {})
    images = (ImageRows(image_bytes((1, 2, 3)), (row,)),)
    return HeldOut(images, checkpoint.config.plan, PreprocessConfig())


@pytest.mark.parametrize("space", ["", " "])
def test_targets_begin_as_what_the_model_says(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, space: str
) -> None:
    task = TaskConfig(prompt=PromptConfig(), target=TargetConfig(field="auto"))
    targets, images = Targets(checkpoint, [task], [None], 24), held_out(checkpoint)
    said = checkpoint.codec.encode(space + "a banana in white")
    completion = Completion(0, said, (1,), (1.0,), FinishReason.EOS, *(0.0,) * 7)
    monkeypatch.setattr(HeldOut, "said", lambda *_: [completion])
    learn_spelling(targets, checkpoint, images, EngineConfig())
    labelled = targets.label(images.rows[0])
    assert isinstance(labelled, Row)
    assert labelled.targets == ((*checkpoint.codec.encode(space + "an apple in green"), checkpoint.config.eos_id),)
    assert [row.targets for row in images.labelled(targets).rows] == [labelled.targets]


def test_the_trained_model_begins_with_a_space(checkpoint: Checkpoint) -> None:
    task = TaskConfig(prompt=PromptConfig(), target=TargetConfig(field="auto"))
    targets = Targets(checkpoint, [task], [None], 24)
    learn_spelling(targets, checkpoint, held_out(checkpoint), EngineConfig(num_slots=2))
    assert targets.leading_space, "its trainer put one there (tests/actors/interop/trained/examples.py)"


def test_nothing_is_decoded_where_both_spellings_are_the_same(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spelling, "_spellings", lambda text, _: ((1,), (1,)))
    monkeypatch.setattr(HeldOut, "said", lambda *_: pytest.fail("decoded"))
    task = TaskConfig(prompt=PromptConfig(), target=TargetConfig(field="auto"))
    targets = Targets(checkpoint, [task], [None], 24)
    learn_spelling(targets, replace(checkpoint), held_out(checkpoint), EngineConfig())
    assert not targets.leading_space
