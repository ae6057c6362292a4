"""Licence, notice and card of a model stay with it: into a checkpoint, and back out of it."""

from pathlib import Path

import pytest

from conf.licence import licence_of
from jobs.cli import main
from tests.actors.interop.sources import make_source

CARD = "---\nlicense: other\nlicense_name: our-terms\nlicense_link: LICENSE.txt\n---\n\n# Ours\n"
TEXTS = {"README.md": CARD, "LICENSE.txt": "Terms of use: ask us.", "NOTICE": "Made by somebody."}


def converted(source: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Path, str]:
    checkpoint = source.with_name("ours")
    assert main(["convert", str(source), str(checkpoint)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  licence")]
    return checkpoint, "".join(lines)


def test_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    make_source("trocr", source)
    for name, text in TEXTS.items():
        (source / name).write_text(text)
    checkpoint, said = converted(source, capsys)
    assert said == "  licence   our-terms, source/LICENSE.txt"
    assert {name: (checkpoint / "source" / name).read_text() for name in TEXTS} == TEXTS
    assert not (checkpoint / "README.md").exists()  # it is no card of this checkpoint
    assert licence_of(checkpoint) == licence_of(source) == "our-terms"
    assert main(["convert", "--to-hf", str(checkpoint), str(back)]) == 0
    assert {name: (back / name).read_text() for name in TEXTS} == TEXTS


def test_a_licence_that_is_only_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_source("trocr", tmp_path / "source")
    (tmp_path / "source" / "README.md").write_text("---\nlicense: mit\n---\n")
    assert converted(tmp_path / "source", capsys)[1] == "  licence   mit, as the source says of itself"


def test_nothing_is_said_of_a_licence_that_nobody_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_source("trocr", tmp_path / "source")
    checkpoint, said = converted(tmp_path / "source", capsys)
    assert said == ""
    assert licence_of(checkpoint) is None
