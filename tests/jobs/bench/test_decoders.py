"""The decoders are compared on the same pictures, and a faster one that gives other pictures would be noticed."""

import json

import numpy as np
import pytest

from jobs.bench.bench_shards import photos
from jobs.bench.decoders import available, main


@pytest.mark.parametrize("size_px", [100, 600, 1300])
def test_all_decoders_see_the_same_picture(size_px: int) -> None:
    decoders, _ = available()
    assert "simplejpeg" in decoders, "it is part of the dev extra"
    data = photos(size_px, 1)(0)
    expected = decoders["pipeline"](data, 64).astype(int)
    for name, decode in decoders.items():
        pixels = decode(data, 64)
        assert (pixels.shape, pixels.dtype) == ((64, 64, 3), np.uint8)
        assert np.abs(pixels - expected).mean() < 1.5, name


def test_the_bench_names_every_decoder_and_ends_with_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--sizes", "64,256", "--image-size", "32", "--images", "2", "--rounds", "1"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    rows = json.loads(last)["rows"]
    assert [row["jpeg_px"] for row in rows] == sorted(row["jpeg_px"] for row in rows)
    assert {row["decoder"] for row in rows} == set(available()[0])
    assert all(row["images_per_s"] > 0 for row in rows)
    assert len([line for line in lines if "images/s" in line]) == len(rows)
