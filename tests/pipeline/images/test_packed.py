"""Images of any shapes travel in one buffer and come out as they went in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.chunk import Chunk
from pipeline.images.packed import ImagePacker, TooManyPixels
from pipeline.tables import prepared_schema

SHAPES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=8)


@given(SHAPES, st.sampled_from(["uint8", "float32"]), st.integers(0, 2000), st.integers(0, 2**31))
def test_images_come_out_of_a_chunk_as_they_went_in(
    shapes: list[tuple[int, int]], dtype: str, expected_bytes: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, (*shape, 3)).astype(dtype) for shape in shapes]
    packer = ImagePacker(expected_bytes, most_bytes=10**6)
    assert [packer.add(image) for image in images] == list(range(len(images)))
    rows = prepared_schema(()).empty_table()
    chunk = Chunk.from_table(Chunk("shard", 3, 4, rows, packer.packed()).to_table())
    assert len(chunk.images) == len(images)
    for image, found in zip(images, chunk.images.unpacked(), strict=True):
        assert found.dtype == image.dtype
        np.testing.assert_array_equal(found, image)


def test_there_is_room_for_so_many_bytes_and_no_more() -> None:
    packer = ImagePacker(10, most_bytes=3 * 3 * 3 + 2)
    assert packer.add(np.zeros((3, 3, 3), np.uint8)) == 0
    with pytest.raises(TooManyPixels, match="MB"):
        packer.add(np.zeros((1, 1, 3), np.uint8))
    assert len(packer.packed()) == 1
