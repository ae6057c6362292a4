"""What outputs are given to begin with is given in serving and training alike, and is no target."""

from pathlib import Path

import pytest
import torch

from actors.backend import load_backend
from actors.engine.drain import drain
from actors.engine.request import Request
from actors.training.pretrained.held_out import HeldOut
from conf.engine import EngineConfig
from conf.schema import ModelSection
from jobs.cli import main
from tests.actors.interop.sources import make_source
from tests.actors.training.own_run import write_own_run
from tests.actors.training.pretrained.small import make_config, trainer_of, write_images

STEPS, PROMPTS = 8, ["w7 w8", "w9"]


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize(
    ("family", "prefix"), [("donut", "w5 {prompt}"), ("donut", "w5"), ("pix2struct", "w5 {prompt}")]
)
def test_what_is_learned_is_what_is_said_after_the_prefix(family: str, prefix: str, tmp_path: Path) -> None:
    make_source(family, tmp_path / "source", 1)
    assert main(["convert", str(tmp_path / "source"), str(tmp_path / "checkpoint")]) == 0
    write_images(tmp_path / "images.tar", PROMPTS * 6)
    settings = {
        "source": {"paths": [str(tmp_path / "*.tar")], "prompt": {"template": "{txt}"}}, "max_new_tokens": STEPS,
        "optimizer": {"total_steps": 2},
    }  # fmt: skip
    targets = {}
    for name, decoder_prefix in {"plain": "", "prefixed": prefix}.items():
        config = make_config(tmp_path, tmp_path / name, **settings, decoder_prefix=decoder_prefix)
        write_own_run(config, tmp_path / "own")
        trainer = trainer_of(config, tmp_path)
        images = trainer.source.readable(trainer.source.places, trainer.targets.label)
        held = HeldOut.of(images, 1, trainer.checkpoint.config.plan, config.preprocess)
        targets[name] = [row.targets[0] for row in held.rows]
    assert targets["plain"] != targets["prefixed"]
    assert [row.prompt for row in held.rows] == PROMPTS * 6
    for batch in held.batches(trainer.checkpoint, trainer.targets, 4, torch.device("cpu")):
        real = batch.target_labels >= 0
        with torch.no_grad():
            last = trainer.model(batch)[-1][real]
            said = trainer.model.decoder.exit_logits(trainer.model.config.exits[-1], last).argmax(-1)
        assert said.equal(batch.target_labels[real])  # greedy: what full depth says next is what it said
    generation = {"max_new_tokens": STEPS, "decoder_prefix": prefix}
    engine = EngineConfig.model_validate({"schedule": "full", "generation": generation})
    backend = load_backend(ModelSection(checkpoint=config.checkpoint), engine, 1)
    requests = [
        Request(i, image.pixels_of(0), backend.encode_prompt(row.prompt), prefix_ids=backend.encode_prefix(row.prompt))
        for i, image in enumerate(held.decoded())
        for row in image.rows
    ]
    served = [completion.token_ids for completion in drain(backend.make_engine(), requests)]
    eos = trainer.checkpoint.config.eos_id
    assert served == [tuple(token for token in target if token != eos) for target in targets["prefixed"]]
    assert trainer.run()
