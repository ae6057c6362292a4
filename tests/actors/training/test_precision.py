"""One training step under bfloat16 autocast for every architecture: no warning, and close to float32."""

from pathlib import Path

import pytest
import torch

from actors.training.scratch.trainer import Trainer
from tests.actors.training.corpus import tiny_config, write_corpus


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_corpus(tmp_path_factory.mktemp("corpus"), 16)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["scenes", "latr", "ofa"])
def test_a_bfloat16_step(kind: str, tmp_path: Path, shards: str) -> None:
    def loss(precision: str) -> float:
        config = tiny_config(tmp_path / precision, shards, precision=precision)
        architecture = config.architecture.model_copy(update={"kind": kind, "max_prompt_tokens": 32})
        trainer = Trainer(config.model_copy(update={"architecture": architecture}), lambda _: None)
        samples = next(trainer._batches())
        first = trainer._train_step(samples)["loss"]
        assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
        assert trainer.validate()["images"] == 8
        return first

    exact, rough = loss("float32"), loss("bfloat16")
    assert rough != exact
    assert rough == pytest.approx(exact, rel=0.05)
