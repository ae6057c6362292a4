"""`deed bench gates` on a random model: tables, the JSON and the figure, and the mistakes one can make."""

import json
from pathlib import Path

import pytest

from jobs.cli import main
from tests.integration.test_model import write_tiny_checkpoint
from tests.shards import sample_members, write_tar


def test_every_gate_is_compared_with_the_oracle_and_with_chance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tar(tmp_path / "s.tar", [member for n in range(8) for member in sample_members(n)])
    checkpoint, out = write_tiny_checkpoint(tmp_path / "checkpoint"), tmp_path / "out"
    bench = ["bench", "gates", str(tmp_path / "s.tar"), "--checkpoint", str(checkpoint)]
    length = ["--set", "engine.generation.max_new_tokens=6"]
    assert main([*bench, *length, "--risks", "0.1,0.5", "--out", str(out)]) == 0
    *shown, last = capsys.readouterr().out.strip().splitlines()
    result = json.loads(last)
    assert result == json.loads((out / "gates.json").read_text())
    assert set(result["gates"]) == {"softmax_max", "softmax_diff", "saturation"}
    for gate in result["gates"].values():
        assert list(gate["at_risk"]) == ["0.1", "0.5"]
        assert all(each["mean_depth"] >= result["oracle"]["mean_depth"] or each["wrong"] > 0
                   for each in gate["at_risk"].values())  # fmt: skip
    assert result["oracle"]["wrong"] == 0
    assert any(line.startswith("softmax_diff, risk 0.5") for line in shown)
    assert "<svg" in (out / "gates.svg").read_text()


def test_mistakes_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tar(tmp_path / "s.tar", sample_members(1))
    checkpoint = write_tiny_checkpoint(tmp_path / "checkpoint")
    bench = ["bench", "gates", str(tmp_path / "s.tar"), "--checkpoint", str(checkpoint)]
    assert main([*bench, "--risks", "2"]) == 2
    assert "--risks takes shares" in capsys.readouterr().err
    assert main(bench) == 2  # one image cannot be halved
    assert "two images" in capsys.readouterr().err
