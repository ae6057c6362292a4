"""`deed demo` as a person runs it, in an empty folder: shards, run, summary; and a second time with nothing to do."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.cli import main

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "assets" / "checkpoints" / "deed-scenes"


def deed(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jobs.cli", *arguments],
        cwd=folder, env=None, text=True, capture_output=True, timeout=280, check=False,
    )  # fmt: skip


@pytest.mark.integration
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_demo_from_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], ray: None
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    arguments = ["demo", "--set", f"model.checkpoint={CHECKPOINT}"]
    first = deed(tmp_path, *arguments)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "Traceback" not in first.stdout + first.stderr
    results = pq.read_table(tmp_path / "runs" / "demo" / "results")
    errors = pq.read_table(tmp_path / "runs" / "demo" / "errors")
    assert results.num_rows == 512 + 5  # the odd but valid ones are captioned
    assert sorted(errors["error_type"].to_pylist()) == ["empty_image", "not_an_image", "truncated_image"]
    assert len(set(results["sample_id"].to_pylist()) | set(errors["sample_id"].to_pylist())) == 520
    record = json.loads((tmp_path / "runs" / "demo" / "run.json").read_text())
    counts = record["counts"]
    assert counts["rows_read"] == counts["rows_ok"] + counts["rows_error"] == 520
    assert all(text for text in results["text"].to_pylist())
    depths = [len(layers) for layers in results["exit_layers"].to_pylist()]
    assert min(depths) >= 1

    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 0
    assert pq.read_table(tmp_path / "runs" / "demo" / "results").equals(results)
    capfd.readouterr()
    assert main([*arguments, "--set", "source.prompt.template=describe the image briefly"]) == 2
    assert len(capfd.readouterr().err.strip().splitlines()) == 1
