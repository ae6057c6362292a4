"""A converted model with its images for all tests of this folder, and runs that leave out what a test is not about."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.cli import main
from tests.actors.interop.sources import make_source
from tests.actors.training.own_run import write_own_run
from tests.actors.training.pretrained.small import make_config, nothing_measured, nothing_timed, write_images
from tests.shards import write_tar


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted random Pix2Struct, shards of 24 images with a caption each, and what the model says of them."""
    root = tmp_path_factory.mktemp("pretrained")
    make_source("pix2struct", root / "source", seed=4)
    assert main(["convert", str(root / "source"), str(root / "checkpoint"), "--exits", "1,2,3"]) == 0
    write_images(root / "images.tar", [" ".join([f"w{i % 5} w{i % 3}", *["w7"] * (i % 4)]) for i in range(24)])
    write_tar(root / "broken.tar", [("broken.jpg", b"no image"), ("broken.txt", b"w1")])
    write_own_run(make_config(root, root), root / "own")
    return root


@pytest.fixture
def unmeasured() -> Iterator[None]:
    with nothing_measured():
        yield


@pytest.fixture
def untimed() -> Iterator[None]:
    with nothing_timed():
        yield
