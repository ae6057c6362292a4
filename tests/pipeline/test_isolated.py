"""A decoder that dies or hangs costs one row, not its process."""

import io
import sys

import numpy as np
from PIL import Image

from pipeline.isolated import image_to_pixels_isolated
from pipeline.preprocess import ImageProblem, Pixels, image_to_pixels
from tests.shards import image_bytes

LIMITS = {"image_size": 16, "max_pixels": 10_000}


def test_it_gives_what_decoding_here_gives() -> None:
    buffer = io.BytesIO()
    Image.effect_noise((40, 30), 50).save(buffer, "PNG")
    here = image_to_pixels(buffer.getvalue(), **LIMITS)
    there = image_to_pixels_isolated(buffer.getvalue(), **LIMITS)
    assert isinstance(here, Pixels)
    assert isinstance(there, Pixels)
    np.testing.assert_array_equal(here.pixels_HWC, there.pixels_HWC)
    assert (here.width, here.height, here.sha256) == (there.width, there.height, there.sha256)
    assert image_to_pixels_isolated(b"", **LIMITS) == image_to_pixels(b"", **LIMITS)


def test_a_dying_decoder_is_a_problem_with_its_signal() -> None:
    command = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"]
    problem = image_to_pixels_isolated(image_bytes((1, 2, 3)), command=command, **LIMITS)
    assert isinstance(problem, ImageProblem)
    assert problem.error_type == "decoder_crash"
    assert "signal 11" in problem.message


def test_a_hanging_decoder_is_stopped() -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    problem = image_to_pixels_isolated(b"x", command=command, timeout_s=0.5, **LIMITS)
    assert isinstance(problem, ImageProblem)
    assert problem.error_type == "decoder_hang"
