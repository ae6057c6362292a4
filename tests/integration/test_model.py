"""A whole run with a real (tiny, untrained) model: what is published is what the engine says of each image alone."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from actors.backend import load_backend
from actors.engine.request import Request
from actors.model.checkpoint import save_checkpoint
from actors.model.tokenizer import train_tokenizer
from conf.checkpoint_info import read_checkpoint_info
from conf.image_plan import ImagePlan
from conf.schema import JobConfig
from jobs.caption import captioner_spec, run_job, with_checkpoint
from pipeline.images.decode import Pixels, image_to_pixels
from pipeline.run import run
from tests.actors.engine.tiny import tiny_model
from tests.shards import image_bytes, sample_members, write_tar

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.usefixtures("ray"),
]

NUM_SAMPLES = 24


def write_tiny_checkpoint(
    folder: Path, thresholds: tuple[float, ...] | None = (0.3, 0.3, 0.3, 0.3), max_prompt_tokens: int = 48
) -> Path:
    tokenizer = train_tokenizer(["what is in the image?"], vocab_size=260)
    model = tiny_model(dtype=torch.float32)
    decoder = model.config.decoder.model_copy(update={"vocab_size": 300})
    encoder = model.config.encoder.model_copy(update={"max_prompt_tokens": max_prompt_tokens})
    config = model.config.model_copy(update={"encoder": encoder, "decoder": decoder, "thresholds": thresholds})
    torch.manual_seed(0)
    from actors.model.model import MultiExitModel

    wide = MultiExitModel(config)
    state = {name: torch.randn_like(t) * 0.3 if t.dim() >= 2 else t for name, t in wide.state_dict().items()}
    save_checkpoint(folder, config, state, tokenizer)
    return folder


def make_config(root: Path, **engine: Any) -> JobConfig:
    return JobConfig.model_validate(
        {
            "source": {"paths": [f"{root}/in/*.tar"], "chunk_rows": 5, "prompt": {"template": "{number}?"}},
            "model": {"checkpoint": str(root / "checkpoint"), "device": "cpu"},
            "engine": {"generation": {"max_new_tokens": 12}, "num_slots": 4, **engine},
            "output": {"path": str(root / "out")},
        }
    )


def test_a_run_gives_what_the_engine_gives_for_each_image_alone(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "checkpoint", max_prompt_tokens=9)
    write_tar(tmp_path / "in" / "s.tar", [member for n in range(NUM_SAMPLES) for member in sample_members(n)])
    write_tar(tmp_path / "in" / "long.tar", sample_members(12345678901234))  # a prompt that the model cannot take
    config = make_config(tmp_path)
    code, record = run_job(config)
    assert code == 0
    assert record is not None
    assert record["counts"]["rows_ok"] == NUM_SAMPLES
    (error,) = pq.read_table(tmp_path / "out" / "errors").to_pylist()
    assert (error["stage"], error["error_type"]) == ("engine", "bad_prompt")
    assert "the model takes 9" in error["message"]

    info = read_checkpoint_info(config.model.checkpoint)
    spec = captioner_spec(make_config(tmp_path, num_slots=1))
    assert spec.make_backend.func is load_backend  # type: ignore[attr-defined]
    backend = spec.make_backend()
    engine = backend.make_engine()
    rows = pq.read_table(tmp_path / "out" / "results").to_pylist()
    assert len({tuple(row["exit_layers"]) for row in rows}) > 1, "the test model shows nothing about depth"
    for row in rows:
        number = int(row["key"])
        image = image_bytes((number % 251, (7 * number) % 251, 100))
        decoded = image_to_pixels(image, plan=ImagePlan.squeeze(info.model.image_size), max_pixels=10_000)
        assert isinstance(decoded, Pixels)
        engine.add(Request(number, decoded.pixels_HWC, backend.encode_prompt(f"{number}?")))
        done = []
        while engine.has_work():
            done += engine.step()
        (alone,) = done
        assert row["text"] == backend.decode_tokens(alone.token_ids)
        assert tuple(row["exit_layers"]) == alone.exit_layers
        assert row["num_tokens"] == len(alone.token_ids)
        assert row["finish_reason"] == alone.finish_reason.value
        assert row["device_s"] > 0
        assert len(row["token_texts"]) == len(row["exit_layers"])

    stats = pq.read_table(tmp_path / "out" / "engine_stats").to_pylist()
    assert sum(window["num_completed"] for window in stats) == NUM_SAMPLES
    assert sum(window["num_tokens"] for window in stats) == sum(len(row["exit_layers"]) for row in rows)
    assert sum(window["busy_s"] for window in stats) == pytest.approx(sum(row["device_s"] for row in rows), rel=1e-3)
    saved = json.loads((tmp_path / "out" / "run.json").read_text())
    assert saved["config"]["engine"]["thresholds"] == [0.3] * 4
    assert saved["weights_sha256"] == info.weights_sha256
    assert run(*with_checkpoint(config), captioner_spec(config)) == saved
