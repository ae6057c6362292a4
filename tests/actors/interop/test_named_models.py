"""Nougat, MatCha and DePlot are of other models' classes: what is theirs alone, files or the name tell."""

from pathlib import Path

import pytest

from actors.model.interop.pix2struct import DEPLOT_QUESTION
from conf.checkpoint_files import read_model_config
from conf.model import ModelConfig
from jobs.cli import main
from tests.actors.interop import zoo


def _converted(kind: str, source: Path) -> ModelConfig:
    zoo.write(kind, source, seed=0)
    assert main(["convert", str(source), str(source / "ours")]) == 0
    return read_model_config(source / "ours")


def test_nougat_crops_its_pages_and_says_what_is_not_carried_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = _converted("nougat", tmp_path / "pages")
    assert config.plan.steps[0].kind == "crop_margin"
    assert (config.text.prompt, config.text.decoder_prefix, config.text.structure) == ("none", "", None)
    said = " ".join(capsys.readouterr().out.split())
    assert "engine.generation.loop_ngram cuts outputs that go on repeating" in said
    assert "post_process_generation" in said


@pytest.mark.parametrize(("name", "is_deplot"), [("deplot-copy", True), ("matcha-chartqa", False)])
def test_questions_about_charts_are_drawn_and_deplot_knows_one(
    name: str, is_deplot: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = _converted("pix2struct_vqa", tmp_path / name)
    assert config.text.prompt == "bytes"
    assert config.plan.draws_prompt
    assert config.encoder.max_prompt_tokens > len(DEPLOT_QUESTION)
    assert (f"source.prompt.template={DEPLOT_QUESTION!r}" in capsys.readouterr().out) == is_deplot
