"""BLIP from its files to a row: what a caption goes on from, how a question is framed, which classes there are."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from actors.backend import load_backend
from actors.model.checkpoint import load_checkpoint
from actors.row_work import RowWork, columns_of, request_of
from conf.engine import EngineConfig
from conf.schema import ModelSection
from conf.source import DEFAULT_PROMPT
from jobs.cli import main
from tests.actors.engine.tiny import run
from tests.actors.interop.sources import CASES, STEPS, make_requests, make_source
from tests.actors.training.own_run import write_own_run
from tests.actors.training.pretrained.small import changed_names, make_config, nothing_timed, trainer_of, write_images


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A converted checkpoint, and the model it was made of."""
    root = tmp_path_factory.mktemp("blip")
    theirs = make_source("blip", root / "source", seed=1)
    assert main(["convert", str(root / "source"), str(root / "ours")]) == 0
    return root / "ours", theirs


def test_a_caption_is_the_text_of_generate_and_decode(captioner: tuple[Path, Any]) -> None:
    path, theirs = captioner
    generation = {"max_new_tokens": STEPS}
    engine = EngineConfig.model_validate({"schedule": "full", "generation": generation})
    backend = load_backend(ModelSection(checkpoint=str(path), device="cpu"), engine, 1)
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    requests = make_requests(CASES["blip"], 4, 0)
    prompts = ("", "w7 w8 w9", DEFAULT_PROMPT, "w5")
    works = [
        RowWork(i, {"sample_id": str(i), "prompt": prompt, "width": 9, "height": 9}, request.pixels_HWC, i)
        for i, (prompt, request) in enumerate(zip(prompts, requests, strict=True))
    ]
    done = run(backend.make_engine(), [request_of(backend, work) for work in works])  # type: ignore[arg-type,list-item]
    texts = []
    for work, prompt, request in zip(works, prompts, requests, strict=True):
        written = [] if prompt == DEFAULT_PROMPT else tokenizer.encode(prompt, add_special_tokens=False).ids
        inputs = CASES["blip"].inputs(theirs, [request])
        inputs["input_ids"] = torch.tensor([[0, *written, 2]])
        said = theirs.generate(**inputs, max_new_tokens=STEPS, do_sample=False)[0].tolist()
        columns = columns_of(backend, work, done[work.request_id])
        assert columns["text"] == tokenizer.decode([token for token in said[1:] if token != 2])
        assert len(columns["token_texts"]) == len(columns["exit_layers"])
        texts.append(columns["text"])
    assert texts[1].startswith("w7 w8 w9 ")
    assert len(set(texts)) == len(texts)


def test_a_prefix_among_the_options_is_given_and_not_repeated(captioner: tuple[Path, Any]) -> None:
    path, _ = captioner
    engine = EngineConfig.model_validate({"schedule": "full", "generation": {"decoder_prefix": "w7 w8 w9"}})
    backend = load_backend(ModelSection(checkpoint=str(path), device="cpu"), engine, 1)
    assert backend.encode_prefix("w5") is None  # the engine's
    assert not backend.says_prefix


def test_exits_are_trained_on_the_frozen_model_after_the_prompt(captioner: tuple[Path, Any], tmp_path: Path) -> None:
    path, _ = captioner
    write_images(tmp_path / "images.tar", ["w7 w8", "w9"] * 8)
    reports: list[dict[str, Any]] = []
    config = make_config(
        tmp_path, tmp_path / "run", checkpoint=str(path), optimizer={"total_steps": 30},
        source={"paths": [str(tmp_path / "*.tar")], "prompt": {"template": "{txt}"}},
    )  # fmt: skip
    write_own_run(config, tmp_path / "own")
    with nothing_timed():
        assert trainer_of(config, tmp_path, reports).run()
    losses = [r["losses"]["exit_2"] for r in reports if "losses" in r]
    assert losses[-1] < 0.8 * losses[0]
    [lost] = (report["guard"]["lost"] for report in reports if "guard" in report)
    assert lost == 0, "full depth says what it said"
    old, new = load_checkpoint(path), load_checkpoint(tmp_path / "run" / "checkpoint")
    assert new.config.text == old.config.text
    assert changed_names(path, tmp_path / "run" / "checkpoint") == {
        f"decoder.adapters.{layer}.weight" for layer in old.config.exits[:-1]
    }


def test_questions_stand_between_their_tokens(tmp_path: Path) -> None:
    make_source("blip_vqa", tmp_path / "source")
    assert main(["convert", str(tmp_path / "source"), str(tmp_path / "ours")]) == 0
    checkpoint = load_checkpoint(tmp_path / "ours")
    assert checkpoint.codec.encode_prompt("w5 w6") == (1, 5, 6, 2)
    assert (checkpoint.config.start_id, checkpoint.config.eos_id) == (95, 2)
    assert checkpoint.config.text.decoder_prefix == ""


def test_other_classes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "blip", "architectures": ["BlipForImageTextRetrieval"]})
    )
    assert main(["convert", str(tmp_path), str(tmp_path / "ours")]) == 2
    assert "a BLIP model of class 'BlipForImageTextRetrieval' is not supported" in capsys.readouterr().err
