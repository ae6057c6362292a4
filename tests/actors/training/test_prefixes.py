"""What outputs are given to begin with is given in training, calibration and serving alike, and is no target."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from actors.backend import load_backend
from actors.engine.drain import drain
from actors.engine.request import Request
from actors.model.checkpoint import load_checkpoint
from actors.training.evaluation import read_labelled
from actors.training.frozen.frozen import FrozenTrainer
from actors.training.frozen.unlabelled import pixels_of
from actors.training.scratch.trainer import Trainer
from actors.training.thresholds import choose_thresholds, record_labelled
from conf.engine import EngineConfig
from conf.evaluation import CalibrateConfig
from conf.frozen import FrozenConfig
from conf.schema import ModelSection
from jobs.cli import main
from tests.actors.interop.sources import make_source
from tests.actors.training.corpus import tiny_config, write_corpus
from tests.shards import write_tar

STEPS, PROMPTS = 8, ["w7 w8", "w9"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_corpus(tmp_path_factory.mktemp("shards"), 12)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Noise, of which random models say different things."""
    rng, members = np.random.default_rng(0), []
    for i in range(12):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, "PNG")
        members.append((f"{i:03d}.png", buffer.getvalue()))
    return str(write_tar(tmp_path_factory.mktemp("images") / "images.tar", members))


@pytest.mark.parametrize(
    ("family", "prefix"), [("donut", "w5 {prompt}"), ("donut", "w5"), ("pix2struct", "w5 {prompt}")]
)
def test_frozen_training_learns_what_is_said_after_the_prefix(
    family: str, prefix: str, images: str, tmp_path: Path
) -> None:
    make_source(family, tmp_path / "source", 1)
    assert main(["convert", str(tmp_path / "source"), str(tmp_path / "checkpoint")]) == 0
    optimizer = {"batch_images": 4, "adapter_steps": 2, "gate_steps": 0}
    settings: dict[str, Any] = {
        "checkpoint": str(tmp_path / "checkpoint"), "shards": [images], "prompts": PROMPTS, "num_threads": 1,
        "validation_images": 4, "test_images": 4, "max_new_tokens": STEPS, "device": "cpu", "optimizer": optimizer,
    }  # fmt: skip
    plain = FrozenTrainer(FrozenConfig(output=str(tmp_path / "plain"), **settings), lambda _: None)
    trainer = FrozenTrainer(
        FrozenConfig(output=str(tmp_path / "run"), decoder_prefix=prefix, **settings), lambda _: None
    )
    targets = trainer.training.targets
    assert targets != plain.training.targets
    for batch in trainer.training.batches(trainer.checkpoint, 4, torch.device("cpu")):
        real = batch.target_labels >= 0
        with torch.no_grad():
            last = trainer.model(batch)[-1][real]
            said = trainer.model.decoder.exit_logits(trainer.model.config.exits[-1], last).argmax(-1)
        assert said.equal(batch.target_labels[real])  # greedy: what full depth says next is what it said
    generation = {"max_new_tokens": STEPS, "decoder_prefix": prefix}
    engine = EngineConfig.model_validate({"schedule": "full", "generation": generation})
    backend = load_backend(ModelSection(checkpoint=settings["checkpoint"]), engine, 1)
    examples, eos = trainer.training.examples, trainer.checkpoint.config.eos_id
    requests = [
        Request(i, pixels_of(e, trainer.checkpoint.config.plan), backend.encode_prompt(e.prompt),
                prefix_ids=backend.encode_prefix(e.prompt))
        for i, e in enumerate(examples)
    ]  # fmt: skip
    served = [completion.token_ids for completion in drain(backend.make_engine(), requests)]
    assert served == [tuple(token for token in target if token != eos) for target in targets]
    assert trainer.run()


def test_supervised_training_and_calibration_put_targets_after_the_prefix(shards: str, tmp_path: Path) -> None:
    data = {**tiny_config(tmp_path, shards).data.model_dump(), "decoder_prefix": "{prompt}: "}
    trainer = Trainer(tiny_config(tmp_path / "out", shards, data=data), lambda _: None)
    sample = trainer.corpus.first(1, trainer.model_config.plan)[0]
    pairs = trainer.packer.choose_pairs(sample, 0)
    assert [pair.prefix for pair in pairs] == [trainer.packer.codec.encode(f"{pair.prompt_text}: ") for pair in pairs]
    assert sum(pair.room for pair in pairs) <= data["target_tokens"]
    batch = trainer.packer.pack([sample], [pairs], torch.device("cpu"))
    start, eos = trainer.model_config.start_id, trainer.model_config.eos_id
    for segment, pair in enumerate(pairs, start=1):
        own = batch.target_segments[0] == segment
        assert batch.target_inputs[0][own].tolist() == [start, *pair.prefix, *pair.target]
        assert batch.target_labels[0][own].tolist() == [*[-100] * len(pair.prefix), *pair.target, eos]
        assert batch.target_positions[0][own].tolist() == list(range(pair.room))
    assert trainer.run()
    path = str(tmp_path / "out" / "checkpoint")
    assert load_checkpoint(path).config.text.decoder_prefix == "{prompt}: "
    engine = EngineConfig.model_validate({"schedule": "full", "generation": {"max_new_tokens": 4}})
    assert load_backend(ModelSection(checkpoint=path), engine, 1).encode_prefix(pairs[0].prompt_text) == pairs[0].prefix
    calibration = CalibrateConfig.model_validate(
        {"checkpoint": path, "source": {"paths": [shards]}, "check_images": 2, "risks": [0.5], "max_points_lost": 100}
    )
    labelled = read_labelled(calibration)
    own, other = record_labelled(labelled), record_labelled(labelled, "a")
    assert own.confidence_NE.shape == other.confidence_NE.shape
    assert (own.confidence_NE != other.confidence_NE).any()
    exits = labelled.checkpoint.config.exits
    assert choose_thresholds(labelled, own, exits, calibration, lambda _: None) is not None
