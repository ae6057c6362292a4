"""What every variant is asked: the same requests, made anew in every process from the seed."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from actors.engine.encoding import collate
from actors.engine.request import Request
from actors.model.checkpoint import Checkpoint
from actors.model.model import MultiExitModel
from conf.bench import BenchConfig, BenchModel, Distribution
from conf.model import ModelConfig
from jobs.bench.engine.cells import Cell
from jobs.bench.engine.models import RANDOM_MODELS
from jobs.bench.engine.scripts import Depths, script_depths

REPLAYED_CONTENTS = 16  # different encoder states where the encoder is replayed; cost does not depend on them
_IMAGE_CORPUS_SEED = 1  # scenes that no checkpoint was trained on


def scripted_exits(checkpoint: Checkpoint) -> tuple[int, ...]:
    """Return the checkpoint's exits next to the quarters of its depth."""
    layers = checkpoint.config.decoder.num_layers
    trained = checkpoint.config.exits
    return tuple(sorted({min(trained, key=lambda e: (abs(e - layers * q / 4), e)) for q in (1, 2, 3, 4)}))


def make_depths(config: BenchConfig, cell: Cell, checkpoint: Checkpoint) -> Depths | None:
    """Return scripted depths; None where depths are the checkpoint's own."""
    if cell.distribution is Distribution.OWN:
        return None
    assert cell.length is not None
    return script_depths(
        cell.distribution, scripted_exits(checkpoint), num_sequences=cell.num_sequences, num_tokens=cell.length,
        mean_share=config.mean_depth, seed=config.seed,
    )  # fmt: skip


def make_requests(config: BenchConfig, cell: Cell, checkpoint: Checkpoint) -> list[Request]:
    """Return one request per sequence; where the encoder is replayed, contents repeat and carry their number."""
    contents = REPLAYED_CONTENTS if cell.encoder == "replayed" else cell.num_sequences
    make = _scenes if cell.model is BenchModel.SCENES else _random
    made = make(config, cell, checkpoint, min(contents, cell.num_sequences))
    if cell.encoder == "replayed":
        for number, (pixels, _) in enumerate(made):
            pixels[0, 0] = (number, 0, 0)
    return [Request(i, *made[i % len(made)], max_new_tokens=cell.length) for i in range(cell.num_sequences)]


def _random(config: BenchConfig, cell: Cell, checkpoint: Checkpoint, count: int) -> list[tuple[Any, tuple[int, ...]]]:
    rng = np.random.default_rng(config.seed)
    least, most = RANDOM_MODELS[cell.model].prompt_tokens
    vocab, image = checkpoint.config.decoder.vocab_size, checkpoint.config.text.image
    before = () if image is None else (image.begin_id, image.image_id, image.end_id)
    return [
        (
            _noise(rng, checkpoint.config),
            (*before, *(int(x) for x in rng.integers(3, min((vocab, *before)), rng.integers(least, most + 1)))),
        )
        for _ in range(count)
    ]


def _noise(rng: np.random.Generator, model: ModelConfig) -> Any:
    """Return an image as the model's plan would leave it: of its shape, or the largest square grid of patches."""
    plan = model.plan
    if plan.patches is not None:
        return rng.standard_normal((plan.longest_side, plan.longest_side, 3), dtype=np.float32)
    return rng.integers(0, 256, (*(plan.shape or (model.image_size, model.image_size)), 3), dtype=np.uint8)


def _scenes(config: BenchConfig, cell: Cell, checkpoint: Checkpoint, count: int) -> list[tuple[Any, tuple[int, ...]]]:
    from jobs.scenes.config import ScenesConfig
    from jobs.scenes.shards import make_scene

    prompt = checkpoint.codec.encode_prompt(config.prompt, checkpoint.config.encoder.max_prompt_tokens)
    drawing = ScenesConfig(image_size=max(64, checkpoint.config.image_size))
    images = (make_scene(_IMAGE_CORPUS_SEED, "test", i, drawing)[0] for i in range(count))
    side = checkpoint.config.image_size
    return [(np.array(image.convert("RGB").resize((side, side))), prompt) for image in images]


def endless(model: MultiExitModel) -> None:
    """Take the end token away, so that outputs are as long as they are asked to be."""
    generation = model.config.generation.model_copy(update={"other_end_ids": ()})
    model.config = model.config.model_copy(update={"eos_id": -1, "generation": generation})


class ReplayedEncoder:
    """Stands in for `model.encode`: states of every content are computed now, and looked up from then on."""

    def __init__(self, model: MultiExitModel, requests: list[Request]) -> None:
        by_number = {int(request.pixels_HWC[0, 0, 0]): request for request in requests}
        chosen = [by_number[number] for number in sorted(by_number)]
        with torch.inference_mode():
            self._states_XCD, self._mask_XC = model.encode(*collate(chosen, model.config.pad_id))

    def __call__(self, pixels_BHWC: Tensor, prompt_ids_BQ: Tensor, prompt_mask_BQ: Tensor) -> tuple[Tensor, Tensor]:
        numbers = pixels_BHWC[:, 0, 0, 0].long()
        return self._states_XCD[numbers], self._mask_XC[numbers]
