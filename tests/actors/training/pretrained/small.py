"""Small runs of training from a checkpoint: their images, configurations and trainers."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image

from actors.model.checkpoint import load_checkpoint
from actors.training.pretrained import finish
from actors.training.pretrained.agreement import Saved
from actors.training.pretrained.finish import Finish
from actors.training.pretrained.trainer import PretrainedTrainer
from actors.training.workers import Workers
from conf.pretrained import PretrainedConfig
from tests.shards import write_tar

DEEP: dict[str, Any] = {"mode": "deep_supervision", "target": {"field": "txt"}}


def write_images(path: Path, texts: list[str]) -> Path:
    """Write a shard of noise, of which random models say different things, with these texts beside it."""
    rng, members = np.random.default_rng(0), []
    for i, text in enumerate(texts):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer := io.BytesIO(), "PNG")
        members += [(f"{i:03d}.png", buffer.getvalue()), (f"{i:03d}.txt", text.encode())]
    return write_tar(path, members)


def make_config(root: Path, output: Path, **changes: Any) -> PretrainedConfig:
    """Return a configuration over `root`'s shards and checkpoint; mode=frozen."""
    optimizer = {"batch_images": 4, "total_steps": 4, "gate_steps": 0, "warmup_steps": 1, "exit_lr": 1e-2}
    values = {
        "mode": "frozen", "checkpoint": str(root / "checkpoint"), "output": str(output), "risk": 0.1,
        "source": {"paths": [str(root / "*.tar")], "chunk_rows": 8, "prompt": {"template": "w7 w8 w9"}},
        "validation_images": 6, "test_images": 5, "max_new_tokens": 6, "num_slots": 6, "device": "cpu",
        "num_threads": 1, "validate_every": 100, "max_points_lost": 100,
        "loading": {"shuffle_images": 16, "threads": 1},
    }  # fmt: skip
    return PretrainedConfig.model_validate(
        {**values, **changes, "optimizer": {**optimizer, **changes.get("optimizer", {})}}
    )


def trainer_of(
    config: PretrainedConfig, root: Path, reports: list[dict[str, Any]] | None = None, workers: Workers | None = None
) -> PretrainedTrainer:
    """Return the trainer of a run whose tasks without labels learn the texts of `root / "own"`."""
    runs = [None if task.target.has_labels else str(root / "own") for task in config.all_tasks]
    return PretrainedTrainer(config, (reports if reports is not None else []).append, workers, runs)


def weights_of(trainer: PretrainedTrainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.parameters.values()])


def changed_names(before: Path, after: Path) -> set[str]:
    old, new = (load_checkpoint(path).model.state_dict() for path in (before, after))
    return {name for name in old if name in new and not torch.equal(old[name], new[name])}


@contextlib.contextmanager
def nothing_timed() -> Iterator[None]:
    """What early exit saves is not measured, which takes far longer than such a run."""
    with mock.patch.object(finish, "measure_saved", return_value=Saved(6, 1.0, 2.0, 20.0, 10.0)):
        yield


@contextlib.contextmanager
def nothing_measured() -> Iterator[None]:
    """Training alone: no model is decoded before and after, and no checkpoint is written."""
    with mock.patch.multiple(Finish, before=lambda _: None, after=lambda *_: None):
        yield
