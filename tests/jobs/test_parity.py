"""`deed parity`: what it prints, writes and ends with."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.cli import main
from jobs.parity import make_parser, parity_config, pictures
from tests.actors.interop import zoo
from tests.shards import write_tar

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
    assert "4 pictures; the library (there) reads them with ViTImageProcessorPil" in said
    assert "turned as its EXIF says" in said
    assert "    here: no image of a known format" in said
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


def test_every_source_of_a_run_can_be_compared(source: Path, photos: Path, tmp_path: Path) -> None:
    members = [(name, (photos / name).read_bytes()) for name in ("a.png", "b.png")]
    fields = [(f"{name[0]}.json", json.dumps({"what": f"a {name[0]}"}).encode()) for name, _ in members]
    write_tar(tmp_path / "some.tar", [*members, *fields])
    arguments = [str(source), str(tmp_path / "some.tar"), "--prompt", "is this {what}?", "--count", "1"]
    asked = list(pictures(parity_config(make_parser().parse_args(arguments)).source, 2))
    assert [(a.name, a.prompt, a.data) for a in asked] == [
        ("a", "is this a a?", members[0][1]), ("b", "is this a b?", members[1][1])
    ]  # fmt: skip


def test_nothing_that_can_be_compared_is_a_mistake(source: Path, tmp_path: Path,
                                                   capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "d.png").write_bytes(b"no picture")
    assert main(["parity", str(source), str(tmp_path / "broken"), *SHORT]) == 2
    assert "no picture could be compared" in capsys.readouterr().err
