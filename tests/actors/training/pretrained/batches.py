"""Small models in training, and what a teacher-forced pass of theirs is given."""

from pathlib import Path

import numpy as np
import torch

from actors.model.checkpoint import load_checkpoint
from actors.model.model import MultiExitModel, PackedBatch
from jobs.cli import main
from tests.actors.engine.tiny import tiny_model
from tests.actors.interop import zoo


def trainable(variant: str, seed: int = 0) -> MultiExitModel:
    """A tiny model of ours as it is trained: in eval mode, with gradients."""
    return tiny_model(variant, seed=seed, dtype=torch.float32).requires_grad_(True)


def converted(kind: str, directory: Path) -> MultiExitModel:
    """A tiny model of the library, converted, in eval mode, with gradients."""
    zoo.write(kind, directory / "theirs", seed=0)
    assert main(["convert", str(directory / "theirs"), str(directory / "ours")]) == 0
    return load_checkpoint(directory / "ours").model.requires_grad_(True)


def batch_for(model: MultiExitModel, num_rows: int = 3, *, target_tokens: int = 6, seed: int = 0) -> PackedBatch:
    """Random images, prompts and targets; the last row's target is one token shorter than the others'."""
    rng = np.random.default_rng(seed)
    side, vocab = model.config.image_size, model.config.decoder.vocab_size

    def ids(width: int) -> torch.Tensor:
        return torch.from_numpy(rng.integers(3, min(vocab, 40) - 2, (num_rows, width)))

    def count(width: int) -> torch.Tensor:
        return torch.arange(width).expand(num_rows, width)

    prompts, inputs, labels = ids(4), ids(target_tokens), ids(target_tokens)
    if hasattr(model.encoder, "image_id"):  # read without its image otherwise
        prompts[:, 1] = model.encoder.image_id
    segments = torch.ones_like(inputs)
    segments[-1, -1], labels[-1, -1] = -1, -100
    return PackedBatch(
        torch.from_numpy(rng.integers(0, 256, (num_rows, side, side, 3), dtype=np.uint8)),
        prompts, count(4), torch.ones_like(prompts), inputs, labels, count(target_tokens), segments,
    )  # fmt: skip
