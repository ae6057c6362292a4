"""Licence, notice and card of a model stay with it: into a checkpoint, and back out of it."""

from pathlib import Path

import pytest

from actors.training.pretrained.card import write_card
from actors.training.pretrained.facts import source_facts
from conf.licence import Licence, licence_of, read_licence
from jobs.cli import main
from tests.actors.interop.sources import make_source
from tests.actors.training.pretrained.records import record

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


@pytest.mark.parametrize(("mode", "retrained"), [("frozen", False), ("frozen", True), ("deep_supervision", False)])
def test_the_card_of_a_plain_model_is_that_of_its_weights(mode: str, retrained: bool, tmp_path: Path) -> None:
    """A model whose full depth was trained is no longer what the card of its source describes."""
    source, checkpoint, back = tmp_path / "source", tmp_path / "ours", tmp_path / "back"
    make_source("trocr", source)
    for name, text in TEXTS.items():
        (source / name).write_text(text)
    assert main(["convert", str(source), str(checkpoint)]) == 0
    facts = source_facts(str(checkpoint)).model_copy(update={"retrained": retrained})
    write_card(checkpoint, record(source=facts.model_dump(), training={"mode": mode}))
    assert licence_of(checkpoint) == "our-terms"
    assert main(["convert", "--to-hf", str(checkpoint), str(back)]) == 0
    card = (back / "README.md").read_text()
    assert (card == CARD) == (mode == "frozen" and not retrained)
    assert read_licence(back) == Licence("other", "our-terms", "LICENSE.txt")
    assert {name: (back / name).read_text() for name in ("LICENSE.txt", "NOTICE")}.items() <= TEXTS.items()
    assert not (back / "training.json").exists()


def test_a_damaged_record_is_a_sentence_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_source("trocr", tmp_path / "source")
    checkpoint, _ = converted(tmp_path / "source", capsys)
    (checkpoint / "training.json").write_text("{}")
    assert main(["convert", "--to-hf", str(checkpoint), str(tmp_path / "back")]) == 2
    assert "is no record of a training run: model: Field required" in capsys.readouterr().err
    assert not (tmp_path / "back").exists()
