"""`deed parity`: what it prints, writes and ends with."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.cli import main
from tests.actors.interop import zoo

SHORT = ["--set", "engine.generation.max_new_tokens=6"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo.write("trocr", tmp_path_factory.mktemp("zoo") / "trocr", seed=0)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures, one of them turned by its EXIF data, and a file that is none."""
    rng, folder = np.random.default_rng(0), tmp_path / "photos"
    folder.mkdir()
    for name, turned in (("a.png", False), ("b.png", False), ("c.jpg", True)):
        exif = Image.Exif()
        exif[0x0112] = 6 if turned else 1
        blocks = rng.integers(0, 256, (4, 7, 3), dtype=np.uint8).repeat(9, 0).repeat(9, 1)
        Image.fromarray(blocks).save(folder / name, exif=exif)
    (folder / "d.png").write_bytes(b"no picture")
    return folder


def test_a_faithful_conversion_is_equal(source: Path, photos: Path, tmp_path: Path,
                                        capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    numbers = tmp_path / "numbers.json"
    assert main(["parity", str(source), str(photos), "--json", str(numbers), *SHORT]) == 0
    said = capsys.readouterr().out
    assert "made ready by ViTImageProcessorPil there, 4 are compared" in said
    assert "turned as its EXIF says" in said
    assert "the pipeline does not take it" in said
    pictures = {picture["name"]: picture for picture in json.loads(numbers.read_text())["pictures"]}
    assert pictures["a.png"]["verdict"] == pictures["b.png"]["verdict"] == "equal"
    assert pictures["a.png"]["pixel_difference"] < 1e-3
    assert pictures["a.png"]["ours"] == pictures["a.png"]["theirs"] != ""
    assert pictures["c.jpg"]["verdict"] in ("equal", "opened otherwise")
    assert pictures["d.png"]["verdict"] == "not compared"


def test_another_models_conversion_is_different(source: Path, photos: Path, tmp_path: Path,
                                                capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    other = zoo.write("trocr", tmp_path / "other", seed=1)
    assert main(["convert", str(other), str(tmp_path / "converted")]) == 0
    arguments = [str(source), str(photos), "--checkpoint", str(tmp_path / "converted"), "--count", "2", *SHORT]
    assert main(["parity", *arguments]) == 7
    said = capsys.readouterr().out
    assert "0 of 2 equal, 2 different" in said
    assert "margin" in said
    assert "    there '" in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere", "{photos}"], "source 'nowhere' is not a directory"),
        (["{source}", "{photos}", "--count", "0"], "--count must be at least 1, got 0"),
        (["{source}", "{photos}", "--checkpoint", "nowhere"], "checkpoint 'nowhere' has no config.json"),
        (["{source}", "{empty}"], "no image files"),
        (["{source}", "{photos}", "--set", "engine.slots=3"], "unknown key 'engine.slots'"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], sentence: str, source: Path, photos: Path, tmp_path: Path,
                                   capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    (tmp_path / "empty").mkdir()
    places = {"source": source, "photos": photos, "empty": tmp_path / "empty"}
    assert main(["parity", *(argument.format(**places) for argument in arguments)]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("deed parity: ")
    assert sentence in said
    assert "\n" not in said
