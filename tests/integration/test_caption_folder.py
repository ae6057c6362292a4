"""`deed caption FOLDER --out OUTPUT` as a person runs it: loose images, no configuration, from another directory."""

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.cli import main
from tests.shards import image_bytes


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_folder_of_mixed_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], ray: None
) -> None:
    photos = tmp_path / "photos"
    (photos / "older").mkdir(parents=True)
    (photos / "a.jpg").write_bytes(image_bytes((200, 10, 10), (90, 60), "JPEG"))
    (photos / "B.PNG").write_bytes(image_bytes((10, 200, 10)))
    (photos / "older" / "ü c.webp").write_bytes(image_bytes((10, 10, 200), (40, 80), "WEBP"))
    (photos / "broken.jpeg").write_bytes(image_bytes((1, 2, 3), (64, 64), "JPEG")[:200])
    (photos / "notes.txt").write_text("no image")
    (photos / "._a.jpg").write_bytes(b"litter")
    (photos / "22.05").write_bytes(image_bytes((1, 2, 3)))
    (photos / os.fsdecode(b"caf\xe9.jpg")).write_bytes(image_bytes((9, 2, 3)))
    os.mkfifo(photos / "pipe.png")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "d.png").write_bytes(image_bytes((4, 5, 6)))
    (photos / "linked").symlink_to(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert main(["caption", "./photos", "--out", "runs/mine", "--set", "engine.generation.max_new_tokens=8"]) == 0
    said = capfd.readouterr()
    assert "Traceback" not in said.out + said.err
    rows = pq.read_table(tmp_path / "runs" / "mine" / "results").to_pylist()
    assert {row["sample_id"] for row in rows} == {
        f"photos/{key}" for key in ("a.jpg", "B.PNG", "older/ü c.webp", "22.05", "caf\\udce9.jpg", "linked/d.png")
    }
    assert all(row["text"] for row in rows)
    (error,) = pq.read_table(tmp_path / "runs" / "mine" / "errors").to_pylist()
    assert (error["sample_id"], error["error_type"]) == ("photos/broken.jpeg", "truncated_image")
    record = json.loads((tmp_path / "runs" / "mine" / "run.json").read_bytes())
    assert {part["reason"]: part["count"] for part in record["left_out"]} == {
        "hidden_files": 1,
        "other_files": 1,
        "special_files": 1,
    }
    assert "1 hidden file (._a.jpg)" in said.out
