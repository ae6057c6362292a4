"""A model directory of `transformers` as --checkpoint: converted once into a cache, run at full depth."""

import argparse
import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from conf.checkpoint_files import read_model_config, weights_sha256
from conf.engine import Schedule
from conf.errors import UserError
from conf.schema import JobConfig
from jobs.cli import main
from jobs.shared.converted_checkpoint import FOLDER
from jobs.shared.job_arguments import add_job_arguments, job_config
from jobs.vqa import make_parser, vqa_config
from tests.actors.interop.sources import make_source


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sources")
    for name in ("trocr", "florence2"):
        make_source(name, root / name)
    return {name: root / name for name in ("trocr", "florence2")}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for n in range(3):
        Image.new("RGB", (50, 20 + n), (90, 30 * n, 20)).save(tmp_path / "photos" / f"{n}.png")
    return tmp_path / "photos"


def parse(*arguments: object) -> JobConfig:
    parser = argparse.ArgumentParser()
    add_job_arguments(parser)
    return job_config(parser.parse_args([str(argument) for argument in arguments]))


def test_one_command_converts_once_and_says_so(
    sources: dict[str, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (photos, "--out", tmp_path / "runs" / "mine", "--checkpoint", sources["trocr"])
    config = parse(*asked)
    checkpoint = Path(config.model.checkpoint)
    said = capsys.readouterr().err
    assert checkpoint.parent == tmp_path / "runs" / FOLDER
    assert read_model_config(checkpoint).name == "trocr"
    assert config.engine.schedule is Schedule.FULL
    assert config.engine.generation.max_new_tokens == read_model_config(checkpoint).decoder.max_positions < 64
    assert "at full depth, as the original does, outputs of at most 48 tokens; its exits are untrained" in said
    assert os.listdir(checkpoint.parent) == [checkpoint.name]  # nothing unfinished is left
    written = (checkpoint / "model.safetensors").stat()
    assert parse(*asked) == config  # so the same command finds the same run
    assert (checkpoint / "model.safetensors").stat() == written
    assert capsys.readouterr().err.count("\n") == 1


def test_another_source_of_the_same_name_is_another_checkpoint_of_the_same_weights(
    sources: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(sources["trocr"], tmp_path / "elsewhere" / "trocr")
    os.utime(moved / "config.json", (1, 1))
    a, b = (parse(photos, "--out", tmp_path / "out", "--checkpoint", path) for path in (sources["trocr"], moved))
    assert a.model.checkpoint != b.model.checkpoint
    assert weights_sha256(a.model.checkpoint) == weights_sha256(b.model.checkpoint)


def test_what_the_user_sets_stays(
    sources: dict[str, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (photos, "--out", tmp_path / "out", "--checkpoint", sources["florence2"])
    config = parse(*asked)
    assert config.source.prompt.template == "<CAPTION>"
    assert "asked <CAPTION>" in capsys.readouterr().err
    config = parse(*asked, "--prompt", "<OD>", "--set", "engine.schedule=pool")
    assert (config.source.prompt.template, config.engine.schedule) == ("<OD>", Schedule.POOL)
    assert "as engine.schedule says, outputs of at most 48 tokens; its exits are untrained" in capsys.readouterr().err


def test_an_output_elsewhere_has_its_checkpoint_in_the_cache_of_the_user(
    sources: dict[str, Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = parse(photos, "--out", "s3://bucket/run", "--checkpoint", sources["trocr"])
    assert Path(config.model.checkpoint).parent == tmp_path / "cache" / "deed" / "checkpoints"


def test_plan_and_questions_take_it_as_well(
    sources: dict[str, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--out", str(tmp_path / "out"), "--checkpoint", str(sources["trocr"])]
    limit = ["--set", "engine.generation.max_new_tokens=12"]
    assert main(["plan", str(photos), *more, *limit]) == 0
    assert "3 in 1 chunks" in capsys.readouterr().out
    config = vqa_config(make_parser().parse_args([str(photos), *more, "--ask", "what is it?"]))
    assert read_model_config(config.model.checkpoint).name == "trocr"


def test_a_cache_of_the_hub_is_read_through_its_links(sources: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    model = tmp_path / "models--somebody--trocr-tiny"
    snapshot, blobs = model / "snapshots" / "0123abcd", model / "blobs"
    shutil.copytree(sources["trocr"], blobs)
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(file)
    config = parse(photos, "--out", tmp_path / "out", "--checkpoint", snapshot)
    assert read_model_config(config.model.checkpoint).name == "trocr-tiny"
    assert Path(config.model.checkpoint).name.startswith("trocr-tiny-")


def test_the_name_of_a_model_on_the_hub_says_how_it_is_fetched(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "`hf download somebody/some-model.v2 --local-dir FOLDER` fetches a model of that name"
    name = "somebody/some-model.v2"
    assert main(["convert", name, str(tmp_path / "ours")]) == 2
    assert said in capsys.readouterr().err
    assert main(["caption", str(photos), "--out", str(tmp_path / "out"), "--checkpoint", name]) == 2
    assert said in capsys.readouterr().err


def test_what_cannot_be_converted_is_one_sentence_and_leaves_nothing(
    sources: dict[str, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = shutil.copytree(sources["trocr"], tmp_path / "source")
    (source / "model.safetensors").unlink()
    assert main(["caption", str(photos), "--out", str(tmp_path / "out"), "--checkpoint", str(source)]) == 2
    assert "has no model.safetensors" in capsys.readouterr().err
    assert os.listdir(tmp_path / FOLDER) == []
    with pytest.raises(UserError, match="deed convert makes a checkpoint of it"):
        read_model_config(source)


def test_what_a_killed_conversion_has_left_is_removed_a_day_later(
    sources: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    cache = tmp_path / FOLDER
    for name in (".unfinished-old", ".unfinished-new"):
        (cache / name).mkdir(parents=True)
        (cache / name / "model.safetensors").write_bytes(b"half")
    os.utime(cache / ".unfinished-old", (1, 1))
    checkpoint = parse(photos, "--out", tmp_path / "out", "--checkpoint", sources["trocr"]).model.checkpoint
    assert sorted(os.listdir(cache)) == [".unfinished-new", Path(checkpoint).name]


def test_a_folder_that_cannot_be_written_is_one_sentence(
    sources: dict[str, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    out, checkpoint = tmp_path / "file" / "inside", tmp_path / "converted"
    assert main(["caption", str(photos), "--out", str(out), "--checkpoint", str(sources["trocr"])]) == 5
    assert main(["convert", str(sources["trocr"]), str(out)]) == 5
    assert main(["convert", str(sources["trocr"]), str(checkpoint)]) == 0
    assert main(["convert", "--to-hf", str(checkpoint), str(out)]) == 5
    assert main(["convert", str(checkpoint), str(tmp_path / "again")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4
    assert all("cannot be written: Not a directory" in sentence for sentence in said[:3])
    assert "names no model_type; it is a checkpoint already" in said[3]


def test_convert_says_what_was_read_and_what_comes_next(
    sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a log every fact is one line; on a terminal none is wider than 100 columns, but the command is whole."""
    source = shutil.copytree(sources["florence2"], tmp_path / "source")
    wrong = {"bos_token_id": 2, "eos_token_id": 1, "decoder_start_token_id": 2, "num_beams": 3}
    (source / "generation_config.json").write_text(json.dumps(wrong))
    assert main(["convert", str(source), str(tmp_path / "a b")]) == 0
    lines = capsys.readouterr().out.splitlines()
    titles = [line[2:12].strip() for line in lines[1:]]
    assert [title for title in titles if title] == ["read", "believed", "differs", "exits", "next"]
    said = dict(zip(titles, (line[12:] for line in lines[1:]), strict=True))
    assert said["read"].startswith("florence2: 0.1 M values in float32, 3 decoder layers")
    assert any("eos_token_id is 1 in generation_config.json and 2 in config.json; 2 is used" in line for line in lines)
    assert any("the source asks for 3 beams" in line for line in lines)
    assert said["next"] == (
        f"deed caption FOLDER_OF_IMAGES --checkpoint '{tmp_path}/a b' --out runs/captions --prompt '<CAPTION>' "
        "--set engine.schedule=full --set engine.generation.max_new_tokens=48"
    )
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["convert", str(source), str(tmp_path / "again")]) == 0
    wrapped = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 100 or "deed caption" in line for line in wrapped[1:])
    assert " ".join(" ".join(wrapped).split()).count("3 beams") == 1
