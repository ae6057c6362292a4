"""The LaTr-style and OFA-style models: trained by the trainer, run by the engine, words in the image read."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from actors.engine.engine import Engine
from actors.engine.oracles.reference import generate
from actors.engine.request import Request
from actors.model.checkpoint import Checkpoint, load_checkpoint
from actors.training.evaluation import predict, read_labelled
from actors.training.scratch.trainer import Trainer
from conf.engine import EngineConfig, Gate
from conf.evaluation import EvaluateConfig
from conf.training import TrainConfig
from tests.actors.engine.tiny import run
from tests.actors.training.corpus import tiny_config, write_corpus

KINDS = ("latr", "ofa")
WORDS = "\n100 200 400 300\t3A\n500 200 900 300\t4A"


def _config(output: Path, shards: str, kind: str, **changes: Any) -> TrainConfig:
    config = tiny_config(output, shards)
    architecture = config.architecture.model_copy(update={"kind": kind, "max_prompt_tokens": 32, **changes})
    optimizer = config.optimizer.model_copy(update={"total_steps": 24, "peak_lr": 5e-3})
    return config.model_copy(update={"architecture": architecture, "optimizer": optimizer})


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_corpus(tmp_path_factory.mktemp("corpus"), 32)


@pytest.fixture(scope="module")
def trained(shards: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Checkpoint, list[float]]]:
    """Both kinds after a few steps, with their losses."""
    result = {}
    for kind in KINDS:
        losses: list[float] = []
        output = tmp_path_factory.mktemp(kind)
        trainer = Trainer(
            _config(output, shards, kind),
            lambda r, losses=losses: losses.append(r["losses"]["loss"]) if "losses" in r else None,
        )
        assert trainer.run()
        result[kind] = (load_checkpoint(output / "checkpoint"), losses)
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_and_the_engine_runs_it(kind: str, trained: dict[str, tuple[Checkpoint, list[float]]]) -> None:
    checkpoint, losses = trained[kind]
    assert losses[-1] < losses[0]
    assert checkpoint.config.family == kind
    rng, words = np.random.default_rng(0), WORDS if kind == "latr" else ""
    work = [
        Request(i, rng.integers(0, 256, (32, 32, 3), dtype=np.uint8), checkpoint.codec.encode_prompt(text))
        for i, text in enumerate(["describe", "what color is it?" + words, "is it red?", "describe" + words] * 2)
    ]
    settings = EngineConfig.model_validate(
        {"num_slots": 3, "thresholds": (0.05, 0.1), "generation": {"max_new_tokens": 8}}
    )
    done = run(Engine(checkpoint.model, settings), work, [0, 1, 0, 2, 3, 0, 1, 0])
    for request in work:  # one at a time and without caches: batches and padding change nothing
        trace = generate(checkpoint.model, request, exit_layers=(1, 2, 3), thresholds=(0.05, 0.1),
                         gate=Gate.SOFTMAX_MAX, max_new_tokens=8)  # fmt: skip
        completion = done[request.request_id]
        assert completion.exit_layers == trace.exit_layers
        assert completion.token_ids == trace.step_ids[: len(completion.token_ids)]
        assert completion.confidences == pytest.approx(trace.confidences, abs=1e-4)


def test_latr_reads_words_and_where_they_are(trained: dict[str, tuple[Checkpoint, list[float]]]) -> None:
    checkpoint, _ = trained["latr"]
    pixels = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)

    def states(prompt: str) -> torch.Tensor:
        ids = torch.tensor([checkpoint.codec.encode_prompt(prompt)])
        return checkpoint.model.encode(pixels, ids, torch.ones_like(ids, dtype=torch.bool))[0]

    here = states("describe\n100 200 400 300\t3A")
    assert not torch.allclose(here, states("describe\n100 200 400 300\t4A"), atol=1e-4)
    assert not torch.allclose(here, states("describe\n600 200 900 300\t3A"), atol=1e-4)
    assert torch.equal(here, states("describe\n100 200 400 300\t3A"))


def test_words_that_do_not_fit_are_left_out(trained: dict[str, tuple[Checkpoint, list[float]]]) -> None:
    codec = trained["latr"][0].codec
    ids = codec.encode_prompt("describe" + WORDS * 40)
    assert len(ids) <= 32
    assert ids[: len(codec.encode_prompt("describe"))] == codec.encode_prompt("describe")
    assert max(ids[-2:]) >= checkpoint_vocab(trained)  # ids beyond the vocabulary carry a box


def checkpoint_vocab(trained: dict[str, tuple[Checkpoint, list[float]]]) -> int:
    return trained["latr"][0].config.decoder.vocab_size


def test_evaluation_gives_the_words_too(
    trained: dict[str, tuple[Checkpoint, list[float]]], shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, seen = trained["latr"][0], []
    settings = EngineConfig.model_validate({"schedule": "full", "generation": {"max_new_tokens": 4}})
    codec = SimpleNamespace(encode_prompt=lambda text, most: seen.append(text) or checkpoint.codec.encode_prompt(text),
                            rules=checkpoint.codec.rules, decode=checkpoint.codec.decode)  # fmt: skip
    watched = replace(checkpoint, codec=codec)
    monkeypatch.setattr("actors.training.evaluation.load_checkpoint", lambda _: watched)
    made_for = "actors.training.pretrained.held_out.make_engine"
    monkeypatch.setattr(made_for, lambda _, engine: Engine(checkpoint.model, engine))
    for prompt, has_words in ({"template": "describe", "words_field": "sign.plates"}, True), ({}, False):
        config = EvaluateConfig.model_validate(
            {"checkpoint": "", "source": {"paths": [shards], "prompt": prompt}, "max_images": 2, "prompts_per_image": 1,
             "tasks": [{"prompt": {"list_field": "qa", "template": "{question}"}}]}
        )  # fmt: skip
        seen.clear()
        labelled = read_labelled(config)
        assert len(predict(labelled, settings, labelled.images)) == 4
        assert {text.split("\n")[0] for text in seen} == {
            prompt.get("template", "describe the image"),
            "what color is it?",
        }
        assert all(("\t" in text) == has_words for text in seen)


@pytest.mark.parametrize("changes", [{"adapters": False}, {"adapters": False, "separate_heads": True}])
def test_the_ablations_train_and_load(changes: dict[str, bool], shards: str, tmp_path: Path) -> None:
    config = _config(tmp_path, shards, "scenes", **changes)
    config = config.model_copy(update={"optimizer": config.optimizer.model_copy(update={"total_steps": 3})})
    trainer = Trainer(config, lambda _: None)
    heads = [name for name, _ in trainer.model.named_parameters() if "own_heads" in name]
    assert len(heads) == (2 if changes.get("separate_heads") else 0)
    assert trainer.run()
    checkpoint = load_checkpoint(tmp_path / "checkpoint")
    assert not checkpoint.model.decoder.adapters
    assert checkpoint.config.separate_heads is changes.get("separate_heads", False)
    again = Trainer(config, lambda _: None)
    assert again.step == 3
