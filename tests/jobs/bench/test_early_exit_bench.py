"""`deed bench exits` on a small trained model: the engine both ways, and the library's own generate."""

import json
from pathlib import Path

import pytest

from jobs.cli import main
from tests.actors.interop.trained.pictures import write_shard

TRAINED = Path(__file__).parents[2] / "actors" / "interop" / "trained" / "pix2struct"


def test_times_of_the_engine_and_of_the_library(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shard(tmp_path / "pictures.tar", "test", 0, 6)
    assert main(["convert", str(TRAINED), str(tmp_path / "checkpoint"), "--exits", "1,2,4"]) == 0
    config = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    (tmp_path / "checkpoint" / "config.json").write_text(json.dumps({**config, "thresholds": [0.0, 1.01]}))
    bench = ["bench", "exits", str(tmp_path / "pictures.tar"), "--checkpoint", str(tmp_path / "checkpoint")]
    capsys.readouterr()
    assert main([*bench, "--library", str(TRAINED), "--slots", "1,4", "--rounds", "1", "--max-new-tokens", "8"]) == 0
    *lines, last = capsys.readouterr().out.strip().splitlines()
    rows = json.loads(last)["rows"]
    assert [row["slots"] for row in rows] == [1, 4]
    assert all(row[f"{way} ms"] > 0 for row in rows for way in ("full depth", "early exit", "library"))
    assert all(row["early exit ratio"][0] <= row["early exit ratio"][2] for row in rows)
    assert "early exit" in lines[-1]
    assert main([*bench[:2], str(tmp_path / "none.tar"), *bench[3:]]) == 2
