"""A checkpoint that is not one: one clear sentence, exit code 2, no code run, nothing started or written."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from jobs.cli import main
from tests.actors.interop.sources import make_source
from tests.actors.interop.test_convert import Bomb
from tests.actors.training.corpus import write_corpus
from tests.integration.test_model import write_tiny_checkpoint

NORM = "decoder.final_norm.weight"


def _weights(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors")


def _configure(path: Path, **changes: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **changes}))


def _configure_part(path: Path, part: str, *, exits: list[int] | None = None, **changes: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    config[part].update(changes)
    if exits is not None:
        config.update(exits=exits, thresholds=None, gate_thresholds=None)
    (path / "config.json").write_text(json.dumps(config))


def _nested_header(path: Path) -> None:
    (path / "model.safetensors").write_bytes((300_000).to_bytes(8, "little") + b'{"a":' * 60_000)


def _only_a_pickle(path: Path) -> None:
    (path / "model.safetensors").unlink()
    (path / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(path / "exploded")))


def _disguised_pickle(path: Path) -> None:
    (path / "model.safetensors").write_bytes(pickle.dumps(Bomb(path / "exploded")))


def _of_transformers(path: Path) -> None:
    make_source("pix2struct", path)
    (path / "evil.py").write_text(f"open({str(path / 'exploded')!r}, 'w')")
    _configure(path, auto_map={"AutoModel": "evil.Model"})


MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    "only a pickle": (_only_a_pickle, "has its weights only as 'pytorch_model.bin', a format that can run code"),
    "a pickle by another name": (_disguised_pickle, "are not readable safetensors"),
    "a tensor too few": (lambda p: _weights(p, lambda t: t.pop(NORM)), f"lack the tensor {NORM!r} (1 missing)"),
    "a tensor too many": (
        lambda p: _weights(p, lambda t: t.update(stranger=torch.ones(1))), "hold the unknown tensor 'stranger'"),
    "a wrong shape": (
        lambda p: _weights(p, lambda t: t.update({NORM: torch.ones(5)})), f"tensor {NORM!r} in"),
    "an unknown family": (lambda p: _configure(p, family="evil"), "is not valid: family: Input should be"),
    "an unknown encoder": (lambda p: _configure(p, encoder={"kind": "evil"}), "encoder: Input tag 'evil'"),
    "a model of transformers": (_of_transformers, "is a model directory of transformers; deed convert makes"),
    "a million layers": (
        lambda p: _configure_part(p, "decoder", num_layers=10**6, exits=[10**6]),
        "cannot have decoder.num_layers=1000000: its weights are"),
    "an encoder of a million layers": (
        lambda p: _configure_part(p, "encoder", num_layers=10**6), "cannot have encoder.num_layers=1000000"),
    "a size no tensor can have": (
        lambda p: _configure_part(p, "decoder", vocab_size=10**30), "no model can be built"),
    "a nested configuration": (lambda p: (p / "config.json").write_text('{"a":' * 100_000), "nested too deeply"),
    "a nested header": (_nested_header, "are not readable safetensors"),
    "a nested tokenizer": (lambda p: (p / "tokenizer.json").write_text('{"a":' * 100_000), "tokenizer '"),
    "a tokenizer of another kind": (lambda p: (p / "tokenizer.json").write_text("{}"), "tokenizer '"),
    "no configuration": (lambda p: (p / "config.json").unlink(), "has no config.json"),
    "no directory": (lambda p: p.rename(p.with_name("moved")), "has no config.json"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("mistake", "command"),
    [
        (mistake, command)
        for mistake in MISTAKES
        for command in ("caption", "evaluate", "calibrate")
        if (mistake, command) != ("a model of transformers", "caption")  # which converts it
    ],
)
def test_one_sentence_and_nothing_runs(
    mistake: str, command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spoil, sentence = MISTAKES[mistake]
    path = write_tiny_checkpoint(tmp_path / "checkpoint")
    spoil(path)
    shards = write_corpus(tmp_path / "corpus", 4)
    settings: dict[str, Any] = {"checkpoint": str(path), "source": {"paths": [shards]}, "num_threads": 1}
    if command == "caption":
        settings = {
            "source": {"paths": [shards]}, "model": {"checkpoint": str(path)},
            "output": {"path": str(tmp_path / "out")},
            "engine": {"generation": {"max_new_tokens": 4}},
        }  # fmt: skip
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(settings))
    capfd.readouterr()
    assert main([command, "--config", str(tmp_path / "job.yaml")]) == 2
    said = capfd.readouterr().err.strip()
    assert said.count("\n") == 0, said
    assert said.startswith(f"deed {command}: ")
    assert sentence in said
    assert not (path / "exploded").exists()
    assert not (tmp_path / "out").exists()


def test_a_pickle_beside_good_weights_is_not_opened(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path / "checkpoint")
    (path / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(path / "exploded")))
    settings = {
        "checkpoint": str(path), "source": {"paths": [write_corpus(tmp_path / "corpus", 2)]}, "num_threads": 1,
        "static_exits": False, "thresholds": [],
        "engine": {"generation": {"max_new_tokens": 4}},
    }  # fmt: skip
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(settings))
    assert main(["evaluate", "--config", str(tmp_path / "job.yaml")]) == 0
    assert not (path / "exploded").exists()
