"""`deed caption` without a configuration file: the short forms, and what is refused."""

import argparse
from pathlib import Path

import pytest

from conf.errors import UserError
from conf.schema import JobConfig
from conf.vqa import VqaConfig
from jobs.shared.job_arguments import SHIPPED_CHECKPOINT, add_job_arguments, job_config
from jobs.vqa import make_parser, vqa_config

IMAGE = str(Path(__file__).parents[2] / "assets" / "sprites" / "atlas-0.webp")
CONFIG = str(Path(__file__).parents[2] / "conf" / "caption.yaml")


def parse(*arguments: str) -> JobConfig:
    parser = argparse.ArgumentParser()
    add_job_arguments(parser)
    return job_config(parser.parse_args(arguments))


def test_a_folder_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the shipped checkpoint is found from anywhere
    (tmp_path / "my photos.tar").mkdir()
    config = parse("my photos.tar", "--out", "runs/mine", "--prompt", "what is this: [x], {name}?")
    assert (config.source.kind.value, config.source.paths) == ("images", ("my photos.tar",))
    assert config.source.prompt.template == "what is this: [x], {name}?"
    assert config.output.path == "runs/mine"
    assert Path(config.model.checkpoint) == SHIPPED_CHECKPOINT
    assert (SHIPPED_CHECKPOINT / "config.json").is_file()


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("a-{000..003}.tar", "webdataset"),
        ("s3://bucket/x/*.TAR.gz", "webdataset"),
        ("a.tgz", "webdataset"),
        ("data/*.parquet", "parquet"),
        ("list.csv", "manifest"),
        ("list.jsonl.zst", "manifest"),
        ("s3://bucket/photos/", "images"),
    ],
)
def test_the_kind_follows_from_the_suffix(source: str, kind: str) -> None:
    assert parse(source, "--out", "o").source.kind.value == kind


def test_a_name_that_says_nothing_is_what_the_user_says(tmp_path: Path) -> None:
    (tmp_path / "list.psv").write_text("uri|text\nx.png|y\n")
    config = parse(str(tmp_path / "list.psv"), "--out", "o", "--set", "source.kind=manifest")
    assert (config.source.kind.value, config.source.paths) == ("manifest", (str(tmp_path / "list.psv"),))


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["a.tar", "b.tgz", "README.md", "._c.png"], "webdataset"),
        (["deep/a.parquet", ".cache/b.tar"], "parquet"),
        (["a.csv", "b.csv.gz", "notes.txt"], "manifest"),
        (["a.png", "metadata.csv", "old.tar"], "images"),
        (["nothing.md"], "images"),
    ],
)
def test_a_folder_is_of_the_kind_of_what_is_in_it(tmp_path: Path, names: list[str], kind: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert parse(str(tmp_path), "--out", "o").source.kind.value == kind


def test_a_folder_of_several_kinds_is_refused(tmp_path: Path) -> None:
    for name in ("a.tar", "b.parquet"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=r"several kinds, parquet \(b.parquet\) and webdataset \(a.tar\)"):
        parse(str(tmp_path), "--out", "o")


def test_short_forms_go_over_the_file_and_under_set() -> None:
    config = parse("a.parquet", "--config", CONFIG, "--checkpoint", "mine", "--set", "model.checkpoint=theirs")
    assert (config.source.kind.value, config.source.paths) == ("parquet", ("a.parquet",))
    assert config.model.checkpoint == "theirs"
    assert config.output.path == "runs/captions", "what is not named stays as in the file"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name what to read"),
        (["photos"], "say where the results go"),
        (["a.tar", "b.csv", "--out", "o"], "of one kind, got 'a.tar' .webdataset., 'b.csv' .manifest."),
        ([__file__, "--out", "o"], "does not say what it is: of an image name the folder"),
        ([IMAGE, "--out", "o"], "is an image: name the folder it lies in, '.*/assets/sprites', or a list of images"),
    ],
)
def test_mistakes(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(*arguments)


def ask(*arguments: str) -> VqaConfig:
    return vqa_config(make_parser().parse_args(arguments))


def test_questions_need_no_configuration_file(tmp_path: Path) -> None:
    config = ask(
        str(tmp_path), "--ask", "how many: [x]?", "--ask", "what is {it}?", "--questions", "q.txt", "--out", "o"
    )
    assert (config.source.kind.value, config.source.paths) == ("images", (str(tmp_path),))
    assert (config.questions.ask, config.questions.file) == (("how many: [x]?", "what is {it}?"), "q.txt")
    assert Path(config.model.checkpoint) == SHIPPED_CHECKPOINT
    assert ask("a.tar", "--out", "o", "--set", "questions.field=qa").questions.field == "qa"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("photos", "--out", "o"), "say what to ask"),
        (("photos", "--out", "o", "--ask", " "), "--ask is empty"),
        (("--ask", "what?", "--out", "o"), "name what to read"),
        (("photos", "--ask", "what?"), "say where the results go"),
        (("list.csv", "--ask", "what?", "--out", "o"), "a manifest's rows have no lasting names"),
    ],
)
def test_what_a_question_lacks_is_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        ask(*arguments)


def test_arguments_that_are_not_utf8_are_taken_as_they_are() -> None:
    odd = "caf\udce9 \U0001f600"
    config = parse(f"{odd}.tar", "--out", odd, "--prompt", odd)
    assert (config.source.paths, config.output.path) == ((f"{odd}.tar",), odd)
    assert config.source.prompt.template == odd
