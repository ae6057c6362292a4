"""A LaTr-style model in the pipeline: the words of the samples reach it, by configuration alone."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from actors.engine.engine import Engine
from actors.engine.request import Request
from actors.model.checkpoint import load_checkpoint, save_checkpoint
from actors.model.model import MultiExitModel
from actors.model.tokenizer import train_tokenizer
from actors.training.scratch.paper_style import paper_style_config
from actors.training.scratch.scratch import initialise
from conf.engine import EngineConfig
from conf.image_plan import ImagePlan
from conf.training import ArchitectureConfig
from jobs.cli import main
from pipeline.images.decode import Pixels, image_to_pixels
from tests.actors.engine.tiny import run
from tests.shards import image_bytes, sample_members, write_tar

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.usefixtures("ray"),
]

NUM_SAMPLES = 10


def test_published_answers_depend_on_the_words(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["what does the sign say? A1 B2"], vocab_size=270)
    architecture = ArchitectureConfig(
        kind="latr", image_size=32, d_model=32, num_heads=2, d_ff=48, encoder_layers=1, decoder_layers=2,
        stem_channels=(4, 4, 8), max_positions=16, max_prompt_tokens=40,
    )  # fmt: skip
    torch.manual_seed(0)
    model = MultiExitModel(paper_style_config(architecture, tokenizer.get_vocab_size()))
    initialise(model)
    torch.nn.init.normal_(model.decoder.embedding.weight, std=0.5)
    save_checkpoint(tmp_path / "checkpoint", model.config, model.state_dict(), tokenizer)

    members = []
    for number in range(NUM_SAMPLES):  # the same image ten times, with another word each time
        words = [{"text": f"A{number}", "box": [100, 100, 300, 200]}]
        members += sample_members(number, colour=(10, 20, 30), words=words)
    write_tar(tmp_path / "in" / "s.tar", members)
    config = {
        "source": {
            "paths": [f"{tmp_path}/in/*.tar"], "chunk_rows": 4,
            "prompt": {"template": "what does the sign say?", "words_field": "words"},
        },
        "model": {"checkpoint": str(tmp_path / "checkpoint"), "device": "cpu"},
        "engine": {"schedule": "full", "num_slots": 4, "generation": {"max_new_tokens": 8}},
        "output": {"path": str(tmp_path / "out")},
    }  # fmt: skip
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(config))
    assert main(["caption", "--config", str(tmp_path / "job.yaml")]) == 0

    rows = {row["key"]: row for row in pq.read_table(tmp_path / "out" / "results").to_pylist()}
    assert len(rows) == NUM_SAMPLES
    assert rows["000003"]["prompt"] == "what does the sign say?\n100 100 300 200\tA3"
    assert len({row["text"] for row in rows.values()}) > 1
    loaded = load_checkpoint(tmp_path / "checkpoint")
    pixels = image_to_pixels(image_bytes((10, 20, 30)), plan=ImagePlan.squeeze(32), max_pixels=10_000)
    assert isinstance(pixels, Pixels)
    for row in rows.values():
        request = Request(0, pixels.pixels_HWC, loaded.codec.encode_prompt(row["prompt"]))
        alone = run(Engine(loaded.model, EngineConfig.model_validate(config["engine"])), [request])[0]
        assert row["text"] == loaded.codec.decode(alone.token_ids)
