"""Where the facts of a training record come from."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.model.checkpoint import load_checkpoint
from actors.training.pretrained.card import write_card
from actors.training.pretrained.facts import (
    data_facts,
    hardware_facts,
    model_facts,
    source_facts,
    training_facts,
)
from conf.checkpoint_files import weights_sha256
from conf.pretrained import PretrainedConfig
from jobs.cli import main
from pipeline.source.plan import LeftOut
from tests.actors.interop.sources import make_source
from tests.actors.training.pretrained.records import record


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("card")
    make_source("trocr", root / "theirs")
    (root / "theirs" / "LICENSE.md").write_text("# Terms\n\nAsk us.")
    assert main(["convert", str(root / "theirs"), str(root / "ours")]) == 0
    return root / "ours"


def config(checkpoint: Path | str = "c", **changes: Any) -> PretrainedConfig:
    source = {"kind": "parquet", "paths": ["a.parquet"]}
    return PretrainedConfig.model_validate({"checkpoint": str(checkpoint), "output": "o", "source": source, **changes})


def test_what_a_model_is(checkpoint: Path) -> None:
    loaded = load_checkpoint(checkpoint)
    facts = model_facts(loaded, 77)
    shape = loaded.config.decoder
    assert (facts.name, facts.family, facts.encoder) == ("theirs", "bart", "vision-encoder-decoder")
    assert (facts.decoder_layers, facts.width, facts.vocabulary) == (shape.num_layers, shape.d_model, shape.vocab_size)
    assert (facts.exits, facts.trained_parameters) == (loaded.config.exits, 77)
    head = loaded.model.decoder.head.weight
    assert head is loaded.model.decoder.embedding.weight  # one tensor in two places
    everything = {p.data_ptr(): p.numel() for p in loaded.model.parameters()}
    assert facts.parameters == sum(everything.values())


def test_a_checkpoint_remembers_what_it_was_made_from(checkpoint: Path, tmp_path: Path) -> None:
    facts = source_facts(str(checkpoint))
    assert (facts.checkpoint, facts.weights_sha256) == (str(checkpoint), weights_sha256(checkpoint))
    assert (facts.base_model, facts.retrained) == ("theirs", False)
    assert (facts.licence, facts.licence_name, facts.licence_link) == ("other", None, "source/LICENSE.md")
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_bytes((checkpoint / name).read_bytes())
    for mode, earlier, retrained in (
        ("frozen", False, False), ("deep_supervision", False, True), ("frozen", True, True),
    ):  # fmt: skip
        write_card(tmp_path, record(training={"mode": mode}, source={"retrained": earlier}))
        again = source_facts(str(tmp_path))
        assert (again.base_model, again.retrained) == ("pix2struct-receipts", retrained)
        assert again.licence_name == "our-terms"


def _run(folder: Path, engine: dict[str, Any], weights: str) -> str:
    folder.mkdir()
    content = {"version": 1, "status": "complete", "weights_sha256": weights, "config": {"engine": engine}}
    (folder / "run.json").write_text(json.dumps(content))
    return str(folder)


@pytest.mark.parametrize(
    ("engine", "weights", "own", "full"),
    [
        ({"schedule": "full"}, "own", True, True),
        ({"schedule": "pool", "lossless": True}, "own", True, True),
        ({"schedule": "pool"}, "teacher", False, False),
    ],
)
def test_where_targets_come_from(engine: dict[str, Any], weights: str, own: bool, full: bool, tmp_path: Path) -> None:
    run = _run(tmp_path / "texts", engine, weights)
    asked = config(
        source={"kind": "parquet", "paths": ["a.parquet", "s3://KEY:SECRET@bucket/b.parquet?signature=abc"],
                "prompt": {"template": "what?"}},
        tasks=[{"prompt": {"list_field": "qa", "template": "{question}"}, "target": {"field": "auto"}},
               {"prompt": {"template": "title"}, "target": {"template": "{title}"}}],
    )  # fmt: skip
    lost = [LeftOut("undecodable", 2, ("private-name.jpg",))]
    facts = data_facts(asked, [run, None, None], "own", lost, training=(30, 60), validation=(5, None), test=(4, 8))
    assert facts.paths == ("a.parquet", "s3://bucket/b.parquet")
    first, second, third = facts.targets
    assert (first.prompt, first.run, first.own_texts, first.full_depth) == ("what?", run, own, full)
    assert (second.prompt, second.prompt_field, second.field, second.run) == ("{question}", "qa", "auto", None)
    assert (third.prompt, third.template) == ("title", "{title}")
    assert (facts.training_images, facts.training_rows, facts.validation_rows, facts.test_rows) == (30, 60, None, 8)
    assert [(part.reason, part.count) for part in facts.left_out] == [("undecodable", 2)]
    said = facts.model_dump_json()
    assert not any(secret in said for secret in ("SECRET", "abc", "private-name"))


def test_how_it_was_trained() -> None:
    optimizer = {"total_steps": 90, "gate_steps": 10, "batch_images": 4, "ema": 0.9}
    low = training_facts(
        config(parts="low_rank", low_rank={"rank": 4}, optimizer=optimizer, loss={"weights": "coefficient"}),
        steps=60, bfloat16=True, rates={"decoder": 1e-4},
    )  # fmt: skip
    assert (low.steps, low.planned_steps, low.gate_steps, low.images_per_step) == (60, 100, 10, 4)
    assert (low.parts, low.low_rank, low.loss_weights, low.coefficient) == ("low_rank", 4, "coefficient", 0.1)
    assert (low.precision, low.rates, low.ema, low.soft) == ("bfloat16", {"decoder": 1e-4}, 0.9, 0.0)
    plain = training_facts(config(), steps=2000, bfloat16=False)
    assert (plain.parts, plain.low_rank, plain.coefficient, plain.ema) == ("decoder", None, None, None)
    frozen = training_facts(config(mode="frozen"), steps=2000, bfloat16=False)
    assert (frozen.mode, frozen.parts, frozen.soft, frozen.precision) == ("frozen", None, None, "float32")


def test_the_hardware_is_this_one() -> None:
    facts = hardware_facts(torch.device("cpu"), 2, 12.5)
    assert (facts.torch, facts.threads) == (torch.__version__, torch.get_num_threads())
    assert (facts.gpu, facts.workers, facts.seconds) == (None, 2, 12.5)
    assert facts.cpu is None or facts.cpu in Path("/proc/cpuinfo").read_text()
