"""`deed bench guarantee`: made-up populations, and the texts of a small checkpoint."""

import json
from pathlib import Path

import pytest

from jobs.cli import main
from tests.actors.training.guarantee.test_recording import quiet
from tests.shards import sample_members, write_tar

FEW = ["--draws", "20", "--level", "0.9"]


def test_made_up_populations(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "guarantee", "--risk", "0.1", "--sample-images", "100", "--images", "1000", *FEW]) == 0
    rows = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["rows"]
    assert len(rows) == 18
    assert {row["draws"] for row in rows} == {20}
    assert all(row["broken"] <= row["may_break"] for row in rows if row["method"] != "conformal_risk_control")


def test_texts_of_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tar(tmp_path / "s.tar", [member for n in range(60) for member in sample_members(n)])
    folder = quiet(tmp_path / "checkpoint", 1)
    arguments = [str(tmp_path / "s.tar"), "--checkpoint", str(folder), "--images", "48", "--sample-images", "24"]
    quick = ["--set", "guarantee.path_images=12", "--set", "engine.generation.max_new_tokens=6"]
    assert main(["bench", "guarantee", *arguments, "--risk", "0.3", *FEW, *quick]) == 0
    rows = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["rows"]
    assert [row["losses"] for row in rows] == ["texts of 48 images"] * 3
    assert rows[0]["good_vectors"] > 0
