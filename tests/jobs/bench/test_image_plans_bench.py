"""Every published processor is measured beside the square, on pictures that are not square."""

import json

import pytest

from jobs.bench.image_plans import PUBLISHED, main


def test_the_bench_names_every_model_and_ends_with_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--sizes", "96", "--images", "1", "--rounds", "1", "--models", "TrOCR;Pix2Struct VQA"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    rows = json.loads(last)["rows"]
    assert [row["model"] for row in rows] == ["TrOCR", "Pix2Struct VQA"]
    assert {row["model"] for row in rows} < set(PUBLISHED)
    assert all(row[f"{name}_images_per_s"] > 0 for row in rows for name in ("square", "exact", "scaled_decode"))
    assert len(lines) == 2
