"""Random `transformers` directories through `deed convert` and the whole pipeline, by configuration alone."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from actors.engine.request import Request
from actors.model.checkpoint import load_checkpoint
from conf.checkpoint_files import read_model_config
from jobs.cli import main
from pipeline.images.plan import carry_out
from tests.actors.interop.sources import CASES, STEPS, make_source, their_outputs
from tests.shards import write_tar

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.usefixtures("ray"),
]

NUM_IMAGES = 14


def _images(folder: Path, size: int) -> dict[str, np.ndarray[Any, Any]]:
    """A shard of random images that are no squares, and a broken one."""
    rng = np.random.default_rng(0)
    pixels = {f"{i:04d}": rng.integers(0, 256, (size, size + 3 * i, 3), dtype=np.uint8) for i in range(NUM_IMAGES)}
    members = []
    for key, image in pixels.items():
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        members.append((f"{key}.png", buffer.getvalue()))
    write_tar(folder / "shard.tar", [*members, ("broken.png", b"no image")])
    return pixels


@pytest.mark.parametrize("name", ["pix2struct", "florence2"])
def test_published_texts_are_those_of_generate(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    case, theirs = CASES[name], make_source(name, tmp_path / "source", seed=1)
    assert main(["convert", str(tmp_path / "source"), str(tmp_path / "checkpoint")]) == 0
    pixels = _images(tmp_path / "in", case.image_size)
    for schedule in ("full", "pool"):
        config = {
            "source": {"paths": [f"{tmp_path}/in/*.tar"], "chunk_rows": 5, "prompt": {"template": "w7 w8 w9"}},
            "model": {"checkpoint": str(tmp_path / "checkpoint"), "device": "cpu"},
            "engine": {"schedule": schedule, "num_slots": 4, "generation": {"max_new_tokens": STEPS}},
            "output": {"path": str(tmp_path / schedule)},
        }
        if schedule == "pool":
            config["engine"]["thresholds"] = [0.05, 0.05]
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(config))
        assert main(["caption", "--config", str(tmp_path / "job.yaml")]) == 0
    rows = pq.read_table(tmp_path / "full" / "results").to_pylist()
    assert sorted(row["key"] for row in rows) == sorted(pixels)
    assert pq.read_table(tmp_path / "full" / "errors").num_rows == 1
    assert {layer for row in rows for layer in row["exit_layers"]} == {3}

    checkpoint = load_checkpoint(tmp_path / "checkpoint")
    codec, plan = checkpoint.codec, checkpoint.config.plan
    seen = [carry_out(Image.fromarray(pixels[row["key"]]), plan) for row in rows]
    requests = [Request(i, seen[i], codec.encode_prompt(row["prompt"])) for i, row in enumerate(rows)]
    for row, said in zip(rows, their_outputs(theirs, requests, case), strict=True):
        eos = load_eos(tmp_path / "checkpoint")
        assert row["text"] == codec.decode(said[: said.index(eos)] if eos in said else said)

    said = capfd.readouterr().err
    assert said.count("warning: exits") == 1
    assert "deed caption: warning: exits [1, 2] of the checkpoint are untrained" in said
    warnings = {s: json.loads((tmp_path / s / "run.json").read_text())["warnings"] for s in ("full", "pool")}
    assert warnings["full"] == []
    assert len(warnings["pool"]) == 1

    shallow = pq.read_table(tmp_path / "pool" / "results").to_pylist()
    assert len(shallow) == NUM_IMAGES
    assert min(layer for row in shallow for layer in row["exit_layers"]) < 3


def test_a_directory_of_the_library_is_captioned_by_one_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """And the same command again finds its run."""
    case, theirs = CASES["trocr"], make_source("trocr", tmp_path / "source", seed=1)
    pixels = _images(tmp_path / "in", case.image_size)
    command = [
        "caption", str(tmp_path / "in" / "shard.tar"), "--out", str(tmp_path / "out"), "--checkpoint",
        str(tmp_path / "source"), "--set", f"engine.generation.max_new_tokens={STEPS}", "--set", "model.device=cpu",
    ]  # fmt: skip
    assert main(command) == 0
    assert "at full depth, as the original does; its exits are untrained" in capfd.readouterr().err
    rows = pq.read_table(tmp_path / "out" / "results").to_pylist()
    assert sorted(row["key"] for row in rows) == sorted(pixels)
    (checkpoint,) = (tmp_path / ".deed-checkpoints").iterdir()
    codec, eos = load_checkpoint(checkpoint).codec, load_eos(checkpoint)
    plan = read_model_config(checkpoint).plan
    seen = [carry_out(Image.fromarray(pixels[row["key"]]), plan) for row in rows]
    said = their_outputs(theirs, [Request(i, image, (1,)) for i, image in enumerate(seen)], case)
    assert [row["text"] for row in rows] == [codec.decode(s[: s.index(eos)] if eos in s else s) for s in said]
    assert main(command) == 0
    assert pq.read_table(tmp_path / "out" / "results").to_pylist() == rows
    assert len(list((tmp_path / ".deed-checkpoints").iterdir())) == 1


def load_eos(checkpoint: Path) -> int:
    return read_model_config(checkpoint).eos_id
