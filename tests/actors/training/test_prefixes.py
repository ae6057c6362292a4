"""What outputs are given to begin with is given in training, calibration and serving alike, and is no target."""

from pathlib import Path

import pytest
import torch

from actors.backend import load_backend
from actors.model.checkpoint import load_checkpoint
from actors.training.evaluation import read_labelled
from actors.training.scratch.trainer import Trainer
from actors.training.thresholds import choose_thresholds, record_labelled
from conf.engine import EngineConfig
from conf.evaluation import CalibrateConfig
from conf.schema import ModelSection
from tests.actors.training.corpus import tiny_config, write_corpus


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_corpus(tmp_path_factory.mktemp("shards"), 12)


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
