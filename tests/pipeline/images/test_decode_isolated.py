"""A decoder that dies or hangs costs one row, not its process."""

import io
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from conf.image_plan import ImagePlan
from pipeline.images import decode_isolated as isolated
from pipeline.images.decode import ImageProblem, Pixels, image_to_pixels
from pipeline.images.decode_isolated import image_to_pixels_isolated, image_to_pixels_or_die
from tests.shards import image_bytes, many_scans

LIMITS = {"plan": ImagePlan.squeeze(16), "max_pixels": 20_000_000, "limit_s": 30.0}


def test_it_gives_what_decoding_here_gives() -> None:
    buffer = io.BytesIO()
    Image.effect_noise((40, 30), 50).save(buffer, "PNG")
    here = image_to_pixels(buffer.getvalue(), plan=ImagePlan.squeeze(16), max_pixels=20_000_000)
    there = image_to_pixels_isolated(buffer.getvalue(), **LIMITS)
    assert isinstance(here, Pixels)
    assert isinstance(there, Pixels)
    np.testing.assert_array_equal(here.pixels_HWC, there.pixels_HWC)
    assert (here.width, here.height, here.sha256) == (there.width, there.height, there.sha256)
    empty = image_to_pixels(b"", plan=ImagePlan.squeeze(16), max_pixels=20_000_000)
    assert image_to_pixels_isolated(b"", **LIMITS) == empty


def test_a_dying_decoder_is_a_problem_with_its_signal() -> None:
    command = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"]
    problem = image_to_pixels_isolated(image_bytes((1, 2, 3)), command=command, **LIMITS)
    assert isinstance(problem, ImageProblem)
    assert problem.error_type == "decoder_crash"
    assert "signal 11" in problem.message


def test_an_image_whose_decoder_hangs_is_stopped() -> None:
    problem = image_to_pixels_isolated(many_scans(20_000), **{**LIMITS, "limit_s": 0.5})
    assert isinstance(problem, ImageProblem)
    assert (problem.error_type, problem.message) == (
        "decoder_hang",
        "the decoder was stopped after 0.5 s (220141 bytes)",
    )


def test_a_process_that_does_not_even_start_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "_START_S", 0.5)
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    problem = image_to_pixels_isolated(b"x", command=command, **{**LIMITS, "limit_s": 0.1})
    assert isinstance(problem, ImageProblem)
    assert problem.error_type == "decoder_hang"


def test_the_limit_ends_the_process_and_only_then() -> None:
    code = (
        "import sys; from conf.image_plan import ImagePlan\n"
        "from pipeline.images.decode_isolated import image_to_pixels_or_die as f\n"
        "for data in (sys.stdin.buffer.read(), b''): print(type(f(data, max_pixels=20_000_000,"
        " plan=ImagePlan.squeeze(16), limit_s=float(sys.argv[1]))).__name__, flush=True)"
    )

    def run(data: bytes, limit_s: float) -> "subprocess.CompletedProcess[bytes]":
        command = [sys.executable, "-c", code, str(limit_s)]
        return subprocess.run(command, input=data, capture_output=True, check=False)

    fine = run(image_bytes((1, 2, 3)), 30)
    assert (fine.returncode, fine.stdout) == (0, b"Pixels\nImageProblem\n")
    stuck = run(many_scans(20_000), 0.5)
    assert (stuck.returncode, stuck.stdout) == (-signal.SIGALRM, b"")


def test_a_timer_of_somebody_else_goes_on() -> None:
    before = signal.setitimer(signal.ITIMER_REAL, 1000)  # pytest's own, perhaps
    try:
        assert isinstance(image_to_pixels_or_die(image_bytes((1, 2, 3)), **LIMITS), Pixels)
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 500
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)
