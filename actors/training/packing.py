"""Prompts and targets of some images -> one batch, as the model reads them.

Several rows of an image share its encoder pass where they can: the scenes encoder reads all their prompts at once, and
encoders that read no prompt give every row the same states. Elsewhere each row is an image of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch

from actors.model.image_batch import image_batch
from actors.model.model import MultiExitModel, PackedBatch
from conf.model import ModelConfig


@dataclass(frozen=True, slots=True)
class Pair:
    """What the model is asked of an image and what it should say, as tokens; the end token is part of the target."""

    pixels_HWC: np.ndarray
    prompt: tuple[int, ...]
    target: tuple[int, ...]
    prefix: tuple[int, ...] = ()  # what the output is given to begin with


class Sharing(Enum):
    """How the rows of an image share its encoder pass."""

    PROMPTS = "prompts"  # all prompts in one pass, each target seeing its own
    STATES = "states"  # the encoder reads no prompt, all targets see the same
    NONE = "none"  # a pass for each row

    @classmethod
    def of(cls, model: MultiExitModel) -> "Sharing":
        """Return what a model allows."""
        if model.packs_prompts:
            return cls.PROMPTS
        reads = model.config.text.prompt == "tokens" and getattr(model.encoder, "reads_prompts", True)
        return cls.NONE if reads or model.config.plan.draws_prompt else cls.STATES


def pack(
    config: ModelConfig, images: Sequence[Sequence[Pair]], device: torch.device, sharing: Sharing = Sharing.NONE
) -> PackedBatch:
    """Return the batch of some images, each with its rows; label -100 marks padding and what the decoder is given."""
    if sharing is Sharing.NONE:
        images = [[pair] for own in images for pair in own]
    prompts: list[list[tuple[int, int, int]]] = []  # (id, position, segment)
    targets: list[list[tuple[int, int, int, int]]] = []  # (input id, label id, position, segment)
    for own in images:
        prompt_row, target_row = [], []
        for segment, pair in enumerate(own, start=1):
            if segment == 1 or sharing is not Sharing.STATES:  # the encoder wants some prompt, and reads none
                prompt_row += [(token, i, segment) for i, token in enumerate(pair.prompt)]
            given = config.given_ids(pair.prefix)
            labels = (*(-100,) * (len(given) - 1), *pair.target)
            steps = zip((*given, *pair.target[:-1]), labels, strict=True)
            target_row += [(token, label, i, segment) for i, (token, label) in enumerate(steps)]
        prompts.append(prompt_row)
        targets.append(target_row)
    prompt_BQ3 = _pad(prompts, (config.pad_id, 0, -1), device)
    target_BT4 = _pad(targets, (config.pad_id, -100, 0, -1), device)
    pixels = image_batch([own[0].pixels_HWC for own in images], device)
    return PackedBatch(pixels, *prompt_BQ3.unbind(-1), *target_BT4.unbind(-1))


def num_tokens(images: Sequence[Sequence[Pair]]) -> int:
    """Count the target tokens of some images, end tokens included."""
    return sum(len(pair.target) for own in images for pair in own)


def _pad(rows: Sequence[Sequence[tuple[int, ...]]], fill: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Right-pad rows of tuples to a multiple of 8 -> int64 [B, length, len(fill)]."""
    length = -(-max(1, *(len(row) for row in rows)) // 8) * 8
    padded = np.empty((len(rows), length, len(fill)), dtype=np.int64)
    padded[:] = fill
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return torch.from_numpy(padded).to(device)
