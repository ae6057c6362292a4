"""Images of different shapes are encoded shape by shape, and every row gets what it gets alone."""

import numpy as np
import torch

from actors.model.image_batch import encode_by_shape, image_batch


def encode(images: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As many states as an image has rows, all of them what its prompt and pixels add up to."""
    total = images.float().sum((1, 2, 3)) + (ids * mask).sum(1)
    states = total[:, None, None].expand(-1, images.shape[1], 2)
    return states, torch.ones(states.shape[:2], dtype=torch.bool)


def test_rows_keep_their_places() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (rows, 4, 3), dtype=np.uint8) for rows in (2, 5, 2, 3, 5)]
    ids, mask = torch.arange(10).view(5, 2), torch.ones(5, 2, dtype=torch.bool)
    calls = []

    def counted(*batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(len(batch[0]))
        return encode(*batch)

    states, real = encode_by_shape(counted, image_batch(arrays), ids, mask)
    assert calls == [2, 2, 1]
    assert states.shape == (5, 5, 2)
    for row, array in enumerate(arrays):
        alone, _ = encode(torch.from_numpy(array)[None], ids[row : row + 1], mask[row : row + 1])
        assert real[row].tolist() == [place < len(array) for place in range(5)]
        torch.testing.assert_close(states[row, : len(array)], alone[0])


def test_images_of_one_shape_are_one_tensor() -> None:
    batch = image_batch([np.zeros((2, 3, 3), np.uint8)] * 4)
    assert isinstance(batch, torch.Tensor)
    assert batch.shape == (4, 2, 3, 3)
