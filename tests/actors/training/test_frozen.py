"""Frozen training on a converted model: nothing but the exits moves, and early exits come to agree with full depth."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from actors.engine.engine import Engine
from actors.engine.oracles.reference import generate
from actors.engine.oracles.replay import replay
from actors.model.checkpoint import load_checkpoint
from actors.model.model import MultiExitModel
from actors.training.frozen.agreement import measure
from actors.training.frozen.frozen import FrozenTrainer
from conf.engine import EngineConfig, Gate
from conf.errors import UserError
from conf.frozen import FrozenConfig
from conf.resolve import resolve
from jobs.cli import main
from tests.actors.engine.tiny import config as engine_config
from tests.actors.engine.tiny import requests, run, tiny_model
from tests.actors.interop.sources import make_source
from tests.shards import write_tar


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted random Pix2Struct, and a shard of images without texts beside it."""
    root = tmp_path_factory.mktemp("frozen")
    make_source("pix2struct", root / "source", seed=4)
    assert main(["convert", str(root / "source"), str(root / "checkpoint"), "--exits", "1,2,3"]) == 0
    rng, members = np.random.default_rng(0), []
    for i in range(40):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer, "PNG")
        members.append((f"{i:03d}.png", buffer.getvalue()))
    write_tar(root / "images.tar", [*members, ("broken.jpg", b"no image")])
    return root


def _config(root: Path, output: Path, **changes: Any) -> FrozenConfig:
    optimizer = {"batch_images": 8, "adapter_steps": 60, "gate_steps": 30, "warmup_steps": 2, "peak_lr": 1e-2}
    values = {
        "checkpoint": str(root / "checkpoint"), "output": str(output), "shards": [str(root / "*.tar")],
        "validation_images": 12, "test_images": 11, "max_new_tokens": 8, "risk": 0.1, "num_slots": 8, "device": "cpu",
        "num_threads": 1, "validate_every": 30, "save_every": 7,
    }  # fmt: skip
    return FrozenConfig.model_validate(
        {**values, **changes, "optimizer": {**optimizer, **changes.get("optimizer", {})}}
    )


def test_exits_learn_and_full_depth_stays(converted: Path, tmp_path: Path) -> None:
    reports: list[dict[str, Any]] = []
    before = load_checkpoint(converted / "checkpoint")
    assert FrozenTrainer(_config(converted, tmp_path), reports.append).run()
    after = load_checkpoint(tmp_path / "checkpoint")
    assert after.config.untrained_exits == ()
    assert len(after.config.thresholds or ()) == len(after.config.gate_thresholds or ()) == 2
    by_gate = EngineConfig.model_validate({"gate": "classifier", "generation": {"max_new_tokens": 8}})
    assert resolve(after.config, by_gate).settings.thresholds == after.config.gate_thresholds
    with pytest.raises(UserError, match="needs a checkpoint with learned gates"):
        resolve(before.config, by_gate)
    old, new = before.model.state_dict(), after.model.state_dict()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed == {"decoder.adapters.1.weight", "decoder.adapters.2.weight"}
    assert {name for name in new if name not in old} == {
        f"decoder.gates.{layer}.{kind}" for layer in (1, 2) for kind in ("weight", "bias")
    }
    assert {"full_depth_unchanged": 11} in reports
    table = {report["agreement"]: report["rows"] for report in reports if "agreement" in report}
    [untrained], trained = table["before"], table["after"]
    losses = [r["losses"]["exit_2"] for r in reports if r.get("stage") == "adapters" and "losses" in r]
    assert losses[-1] < 0.7 * losses[0]
    assert [row["gate"] for row in trained] == ["softmax_max", "classifier"]
    assert {row["num_images"] for row in (untrained, *trained)} == {11}


def test_thresholds_are_chosen_on_other_images_than_the_report(converted: Path, tmp_path: Path) -> None:
    trainer = FrozenTrainer(_config(converted, tmp_path), lambda _: None)
    groups = [{e.image for e in corpus.examples} for corpus in (trainer.training, trainer.validation, trainer.test)]
    assert [len(group) for group in groups] == [17, 12, 11]
    assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]
    corpora = {"choose_on": trainer.validation, "report_on": trainer.test}
    both = [measure(trainer.checkpoint, Gate.SOFTMAX_MAX, trainer.config, **corpora)]
    corpora = {"choose_on": trainer.validation, "report_on": trainer.training}
    both.append(measure(trainer.checkpoint, Gate.SOFTMAX_MAX, trainer.config, **corpora))
    assert both[0].thresholds == both[1].thresholds
    assert both[0].mean_depth != both[1].mean_depth


@pytest.mark.parametrize("change", [
    {"max_new_tokens": 7}, {"num_images": 30}, {"prompts": ["another"]}, {"test_images": 10},
    {"optimizer": {"adapter_steps": 9}}, {"checkpoint": "other"},
])  # fmt: skip
def test_a_run_of_other_targets_is_not_continued(converted: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    small = {"optimizer": {"adapter_steps": 2, "gate_steps": 0}}
    config = _config(converted, tmp_path / "run", **small)
    assert not FrozenTrainer(config, lambda _: None).run(lambda: True)
    if "checkpoint" in change:
        make_source("pix2struct", tmp_path / "source", seed=5)
        assert main(["convert", str(tmp_path / "source"), str(tmp_path / "other"), "--exits", "1,2,3"]) == 0
        change = {"checkpoint": str(tmp_path / "other")}
    with pytest.raises(UserError, match="name another output"):
        FrozenTrainer(_config(converted, tmp_path / "run", **{**small, **change}), lambda _: None)


def test_another_risk_measures_anew_and_trains_nothing(converted: Path, tmp_path: Path) -> None:
    small = {"optimizer": {"adapter_steps": 3, "gate_steps": 0}}
    assert FrozenTrainer(_config(converted, tmp_path, **small), lambda _: None).run()
    first = load_checkpoint(tmp_path / "checkpoint")
    assert FrozenTrainer(_config(converted, tmp_path, **small, risk=0.5), lambda _: None).run()
    second = load_checkpoint(tmp_path / "checkpoint")
    assert first.sha256 == second.sha256
    assert first.config.thresholds != second.config.thresholds


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulated_steps_are_those_of_the_whole_batch(converted: Path, tmp_path: Path, accumulate: int) -> None:
    def adapters(name: str, accumulate: int, batch_images: int = 8) -> torch.Tensor:
        optimizer = {"accumulate": accumulate, "batch_images": batch_images}
        trainer = FrozenTrainer(_config(converted, tmp_path / name, optimizer=optimizer), lambda _: None)
        for parameter in trainer._parameters("adapters"):
            parameter.requires_grad_(True)
        trainer.optimizers["adapters"] = torch.optim.SGD(trainer._parameters("adapters"), lr=1.0)
        trainer._train_step("adapters", 1.0)
        return torch.cat([p.detach().flatten() for p in trainer._parameters("adapters")])

    whole, parts, fewer = adapters("whole", 1), adapters("parts", accumulate), adapters("fewer", 1, 4)
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=0)
    assert (fewer - whole).abs().max() > 1e-4


@pytest.mark.parametrize("family", ["t5", "bart", "udop", "florence2", "trocr", "donut"])
def test_a_bfloat16_step_of_every_kind_of_source(family: str, converted: Path, tmp_path: Path) -> None:
    make_source(family, tmp_path / "source")
    assert main(["convert", str(tmp_path / "source"), str(tmp_path / "checkpoint")]) == 0
    changes = {"checkpoint": str(tmp_path / "checkpoint"), "num_images": 12, "prompts": ["w7 w8 w9"]}
    trainer = FrozenTrainer(_config(converted, tmp_path / "run", precision="bfloat16", **changes), lambda _: None)
    for stage in trainer.optimizers:
        for parameter in trainer._parameters(stage):
            parameter.requires_grad_(True)
        assert all(0 < loss < 10 for loss in trainer._train_step(stage, 1e-3).values())


def test_bfloat16_trains_close_to_float32(converted: Path, tmp_path: Path) -> None:
    def losses(precision: str) -> list[float]:
        reports: list[dict[str, Any]] = []
        small = {"optimizer": {"adapter_steps": 10, "gate_steps": 10}}
        config = _config(converted, tmp_path / precision, precision=precision, **small)
        assert FrozenTrainer(config, reports.append).run()
        return [r["losses"]["exit_2"] for r in reports if "losses" in r]

    exact, rough = losses("float32"), losses("bfloat16")
    assert exact != rough
    assert rough == pytest.approx(exact, rel=0.1)


def test_a_stopped_run_continues_to_the_same_exits(converted: Path, tmp_path: Path) -> None:
    def exits(trainer: FrozenTrainer) -> list[torch.Tensor]:
        return [p for stage in trainer.optimizers for p in trainer._parameters(stage)]

    small = {"optimizer": {"adapter_steps": 10, "gate_steps": 6, "accumulate": 2}}
    straight = FrozenTrainer(_config(converted, tmp_path / "a", **small), lambda _: None)
    assert straight.run()
    calls = iter(range(100))
    config = _config(converted, tmp_path / "b", **small)
    assert not FrozenTrainer(config, lambda _: None).run(lambda: next(calls) > 4)
    resumed = FrozenTrainer(config, lambda _: None)
    assert 0 < resumed.step < 16
    assert resumed.run()
    assert all(torch.equal(a, b) for a, b in zip(exits(straight), exits(resumed), strict=True))


def test_the_learned_gate_decides_in_the_engine_as_in_the_reference() -> None:
    config = tiny_model().config.model_copy(update={"gates": True})
    torch.manual_seed(0)
    model = MultiExitModel(config)
    model.load_state_dict(tiny_model(dtype=torch.float32).state_dict(), strict=False)
    for gate in model.decoder.gates.parameters():
        torch.nn.init.normal_(gate, std=0.2)
    model = model.to(torch.float64).eval().requires_grad_(False)
    thresholds = (0.55, 0.5, 0.5, 0.45)
    rules = {"exit_layers": (1, 2, 3, 4, 5), "thresholds": thresholds, "gate": Gate.CLASSIFIER}
    work = requests(10, 2)
    done = run(Engine(model, engine_config(gate=Gate.CLASSIFIER, thresholds=thresholds)), work)
    depths = set()
    for request in work:
        trace = generate(model, request, **rules, max_new_tokens=min(16, request.max_new_tokens or 16))
        completion = done[request.request_id]
        assert completion.exit_layers == trace.exit_layers
        assert completion.confidences == pytest.approx(trace.confidences, abs=1e-6)
        assert completion.token_ids == trace.step_ids[: len(completion.token_ids)]
        assert replay(model, request, completion, **rules).exact
        depths |= set(trace.exit_layers)
    assert len(depths) >= 3
