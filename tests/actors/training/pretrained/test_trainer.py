"""Training from a converted checkpoint: exits come to agree, full depth stays or is guarded, kills change nothing."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from actors.model.checkpoint import load_checkpoint
from actors.training.pretrained.trainer import PretrainedTrainer
from conf.engine import EngineConfig
from conf.errors import UserError
from conf.pretrained import PretrainedConfig
from conf.resolve import resolve
from jobs.cli import main
from tests.actors.interop.sources import make_source
from tests.actors.training.own_run import write_own_run
from tests.shards import write_tar


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted random Pix2Struct, a shard of images with a caption each, and what the model says of them."""
    root = tmp_path_factory.mktemp("pretrained")
    make_source("pix2struct", root / "source", seed=4)
    assert main(["convert", str(root / "source"), str(root / "checkpoint"), "--exits", "1,2,3"]) == 0
    rng, members = np.random.default_rng(0), []
    for i in range(40):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer, "PNG")
        members += [(f"{i:03d}.png", buffer.getvalue()), (f"{i:03d}.txt", f"w{i % 5} w{i % 3} w7".encode())]
    write_tar(root / "images.tar", [*members, ("broken.jpg", b"no image"), ("broken.txt", b"w1")])
    write_own_run(make_config(root, root), root / "own")
    return root


def make_config(root: Path, output: Path, **changes: Any) -> PretrainedConfig:
    optimizer = {"batch_images": 8, "total_steps": 30, "gate_steps": 10, "warmup_steps": 2, "exit_lr": 1e-2}
    values = {
        "mode": "frozen", "checkpoint": str(root / "checkpoint"), "output": str(output), "risk": 0.1,
        "source": {"paths": [str(root / "*.tar")], "chunk_rows": 8}, "validation_images": 10, "test_images": 9,
        "max_new_tokens": 8, "num_slots": 8, "device": "cpu", "num_threads": 1, "validate_every": 15, "save_every": 7,
        "max_points_lost": 100, "loading": {"shuffle_images": 16, "threads": 1},
    }  # fmt: skip
    return PretrainedConfig.model_validate(
        {**values, **changes, "optimizer": {**optimizer, **changes.get("optimizer", {})}}
    )


DEEP: dict[str, Any] = {"mode": "deep_supervision", "target": {"field": "txt"}}


def trainer_of(config: PretrainedConfig, root: Path, reports: list[dict[str, Any]] | None = None) -> PretrainedTrainer:
    runs = [None if task.target.has_labels else str(root / "own") for task in config.all_tasks]
    return PretrainedTrainer(config, (reports if reports is not None else []).append, runs=runs)


def changed_names(before: Path, after: Path) -> set[str]:
    old, new = (load_checkpoint(path).model.state_dict() for path in (before, after))
    return {name for name in old if name in new and not torch.equal(old[name], new[name])}


def test_frozen_exits_learn_and_full_depth_stays(converted: Path, tmp_path: Path) -> None:
    reports: list[dict[str, Any]] = []
    trainer = trainer_of(
        make_config(converted, tmp_path, optimizer={"total_steps": 60, "gate_steps": 20}), converted, reports
    )
    assert trainer.run()
    assert trainer.marked is None
    after = load_checkpoint(tmp_path / "checkpoint")
    assert after.config.untrained_exits == ()
    assert len(after.config.thresholds or ()) == len(after.config.gate_thresholds or ()) == 2
    by_gate = EngineConfig.model_validate({"gate": "classifier", "generation": {"max_new_tokens": 8}})
    assert resolve(after.config, by_gate).settings.thresholds == after.config.gate_thresholds
    names = {"decoder.adapters.1.weight", "decoder.adapters.2.weight"}
    assert changed_names(converted / "checkpoint", tmp_path / "checkpoint") == names
    table = {report["agreement"]: report["rows"] for report in reports if "agreement" in report}
    losses = [r["losses"]["exit_2"] for r in reports if r.get("stage") == "exits" and "losses" in r]
    assert losses[-1] < 0.7 * losses[0]
    assert [row["gate"] for row in table["after"]] == ["softmax_max", "classifier"]
    (guard,) = (report["guard"] for report in reports if "guard" in report)
    assert guard["lost"] == 0.0


@pytest.mark.parametrize(("parts", "moves"), [
    ("everything", {"encoder", "decoder"}), ("decoder", {"decoder"}), ("low_rank", {"decoder"}),
])  # fmt: skip
def test_deep_supervision_moves_the_parts_that_are_named(
    converted: Path, tmp_path: Path, parts: str, moves: set[str]
) -> None:
    reports: list[dict[str, Any]] = []
    config = make_config(converted, tmp_path, **DEEP, parts=parts, optimizer={"decoder_lr": 3e-3, "gate_steps": 0})
    assert trainer_of(config, converted, reports).run()
    changed = changed_names(converted / "checkpoint", tmp_path / "checkpoint")
    assert {name.partition(".")[0] for name in changed} == moves
    assert "decoder.embedding.weight" in changed or parts == "low_rank"
    assert "decoder.layers.2.qkv.weight" in changed
    losses = [r["losses"] for r in reports if r.get("stage") == "exits" and "losses" in r]
    assert all(losses[-1][f"exit_{layer}"] < losses[0][f"exit_{layer}"] for layer in (1, 2, 3))


def test_a_model_that_lost_too_much_is_written_and_marked(converted: Path, tmp_path: Path) -> None:
    ruinous = {"decoder_lr": 0.3, "head_lr": 0.3, "gate_steps": 0, "total_steps": 8}
    config = make_config(converted, tmp_path, mode="deep_supervision", optimizer=ruinous, max_points_lost=1.0)
    trainer = trainer_of(config, converted)
    assert trainer.run()
    assert trainer.marked is not None
    assert trainer.marked.startswith("full depth lost")
    lost = load_checkpoint(tmp_path / "checkpoint").config.points_lost
    assert lost is not None
    assert lost > 1.0
    small = {"checkpoint": str(tmp_path / "checkpoint"), "optimizer": {"total_steps": 1, "gate_steps": 0}}
    assert trainer_of(make_config(converted, tmp_path / "again", **small), converted).run()
    assert load_checkpoint(tmp_path / "again" / "checkpoint").config.points_lost == lost, "full depth is still that one"


@pytest.mark.parametrize("changes", [
    {}, DEEP, {**DEEP, "loss": {"layer_dropout": 0.5}, "parts": "everything"},
    {**DEEP, "parts": "low_rank", "train_encoder": True}, {**DEEP, "optimizer": {"ema": 0.5}},
], ids=["frozen", "deep", "dropout", "low_rank", "ema"])  # fmt: skip
def test_a_stopped_run_continues_to_the_same_weights(converted: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    small = {
        **changes,
        "optimizer": {"total_steps": 9, "gate_steps": 4, "accumulate": 2, **changes.get("optimizer", {})},
    }
    straight = trainer_of(make_config(converted, tmp_path / "a", **small), converted)
    assert straight.run()
    config = make_config(converted, tmp_path / "b", **small)
    calls = iter(range(100))
    assert not trainer_of(config, converted).run(lambda: next(calls) > 4)
    resumed = trainer_of(config, converted)
    assert 0 < resumed.step < 13
    assert resumed.run()
    weights = [(tmp_path / name / "checkpoint" / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("change", [
    {"max_new_tokens": 7}, {"max_images": 30}, {"source": {"prompt": {"template": "another"}}}, {"test_images": 8},
    {"optimizer": {"total_steps": 9}}, {"loss": {"soft": 0.5}}, {"checkpoint": "other"},
], ids=lambda change: next(iter(change)))  # fmt: skip
def test_another_run_is_not_continued(converted: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    small = {**DEEP, "optimizer": {"total_steps": 3, "gate_steps": 0}}
    config = make_config(converted, tmp_path / "run", **small)
    assert not trainer_of(config, converted).run(lambda: True)
    if "checkpoint" in change:
        make_source("pix2struct", tmp_path / "source", seed=5)
        assert main(["convert", str(tmp_path / "source"), str(tmp_path / "other"), "--exits", "1,2,3"]) == 0
        change = {"checkpoint": str(tmp_path / "other")}
    if "source" in change:
        change = {"source": {**config.source.model_dump(), **change["source"]}}
    with pytest.raises(UserError, match=r"holds a run with another .*; name another output"):
        trainer_of(make_config(converted, tmp_path / "run", **{**small, **change}), converted)


def test_another_risk_measures_anew_and_trains_nothing(converted: Path, tmp_path: Path) -> None:
    small = {"optimizer": {"total_steps": 3, "gate_steps": 0}}
    assert trainer_of(make_config(converted, tmp_path, **small), converted).run()
    first = load_checkpoint(tmp_path / "checkpoint")
    assert trainer_of(make_config(converted, tmp_path, **small, risk=0.5), converted).run()
    second = load_checkpoint(tmp_path / "checkpoint")
    assert first.sha256 == second.sha256
    assert first.config.thresholds != second.config.thresholds


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulated_steps_are_those_of_the_whole_batch(converted: Path, tmp_path: Path, accumulate: int) -> None:
    def weights(name: str, accumulate: int) -> torch.Tensor:
        optimizer = {"accumulate": accumulate, "total_steps": 1, "gate_steps": 0, "warmup_steps": 0}
        trainer = trainer_of(make_config(converted, tmp_path / name, **DEEP, optimizer=optimizer), converted)
        groups = [{**group, "lr": 0.0} for group in trainer.optimizers["exits"].param_groups]
        trainer.optimizers["exits"] = torch.optim.SGD(groups, lr=1.0)
        assert not trainer.run(lambda: True) or True
        return torch.cat([p.detach().flatten() for p in trainer.parameters.values()])

    torch.testing.assert_close(weights("parts", accumulate), weights("whole", 1), atol=1e-6, rtol=0)


def test_exits_may_be_others_than_the_checkpoint_has(converted: Path, tmp_path: Path) -> None:
    small = {"optimizer": {"total_steps": 2, "gate_steps": 0}}
    assert trainer_of(make_config(converted, tmp_path, **small, exits=[2, 3]), converted).run()
    assert load_checkpoint(tmp_path / "checkpoint").config.exits == (2, 3)
    with pytest.raises(UserError, match=r"exits must be increasing layers that end with 3, got \[2, 1\]"):
        trainer_of(make_config(converted, tmp_path / "b", **small, exits=[2, 1]), converted)


@pytest.mark.parametrize("family", ["t5", "bart", "udop", "florence2", "trocr", "donut", "blip", "t5gemma2"])
def test_a_bfloat16_step_of_every_kind_of_source(family: str, converted: Path, tmp_path: Path) -> None:
    make_source(family, tmp_path / "source")
    assert main(["convert", str(tmp_path / "source"), str(tmp_path / "checkpoint")]) == 0
    config = make_config(
        converted, tmp_path / "run", **DEEP, checkpoint=str(tmp_path / "checkpoint"), precision="bfloat16",
        parts="everything", optimizer={"total_steps": 1, "gate_steps": 0, "batch_images": 4}, checkpointing=True,
        source={"paths": [str(converted / "*.tar")], "prompt": {"template": "w7 w8 w9"}}, max_images=16,
    )  # fmt: skip
    reports: list[dict[str, Any]] = []
    assert trainer_of(config, converted, reports).run()
    (losses,) = (report["losses"] for report in reports if "losses" in report)
    assert all(0 < loss < 20 for loss in losses.values())
