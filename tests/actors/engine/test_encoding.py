"""An encoder that reads no prompts sees each image once; one that does sees every prompt. Nobody's states change."""

from pathlib import Path

import numpy as np
import pytest
import torch

from actors.engine.batch import EncodeBatch
from actors.engine.drain import drain
from actors.engine.encoding import distinct_images, encode_requests
from actors.engine.engine import Engine
from actors.engine.request import Request
from conf.engine import EngineConfig, Schedule
from tests.actors.interop.sources import CASES, load_ours, make_source


@pytest.mark.parametrize(("name", "num_encoded"), [("donut", 2), ("pix2struct", 4)])
def test_prompts_of_one_image_share_its_encoding(
    name: str, num_encoded: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_source(name, tmp_path)
    _, model = load_ours(tmp_path)
    size = CASES[name].image_size
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    requests = [Request(i, pixels[image], (5 + i, 7)) for i, image in enumerate((0, 0, 1, 0))]
    alone = [encode_requests(model, [request]) for request in requests]

    encode, batches = model.encoder.encode, []

    def counted(pixels_BXYC: torch.Tensor, *prompts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        batches.append(len(pixels_BXYC))
        return encode(pixels_BXYC, *prompts)

    monkeypatch.setattr(model.encoder, "encode", counted)
    states, mask = encode_requests(model, requests)
    assert batches == [num_encoded]
    for row, (states_alone, mask_alone) in enumerate(alone):
        torch.testing.assert_close(states[row], states_alone[0], atol=1e-5, rtol=1e-5)
        assert torch.equal(mask[row], mask_alone[0])


def test_grids_of_all_shapes_are_one_batch_and_each_has_the_context_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_source("pix2struct", tmp_path)
    _, model = load_ours(tmp_path)
    patch, rng = model.encoder.patch, np.random.default_rng(0)
    grids = [(1, 3), (5, 2), (2, 2), (1, 3)]
    images = [rng.standard_normal((patch * y, patch * x, 3), np.float32) for y, x in grids]
    requests = [Request(i, image, (1,)) for i, image in enumerate(images)]
    states, mask = encode_requests(model, requests)
    assert mask.sum(1).tolist() == [y * x for y, x in grids]
    for row, request in enumerate(requests):
        alone, _ = encode_requests(model, [request])
        torch.testing.assert_close(states[row, : alone.shape[1]], alone[0], atol=1e-5, rtol=1e-5)
    engine, encoded = Engine(model, EngineConfig(num_slots=4, schedule=Schedule.FULL)), []
    encode = engine.executor.encode

    def noted(batch: EncodeBatch) -> None:
        encode(batch)
        encoded.extend(batch.sequences)

    monkeypatch.setattr(engine.executor, "encode", noted)
    drain(engine, requests)
    assert [sequence.num_context for sequence in encoded] == [8, 16, 8, 8]


def test_only_the_same_memory_is_the_same_image() -> None:
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    requests = [Request(i, image, (1,)) for i, image in enumerate((pixels[0], pixels[1], pixels[0], pixels[0].copy()))]
    first, place = distinct_images(requests)
    assert [request.request_id for request in first] == [0, 1, 3]
    assert place == [0, 1, 0, 2]
