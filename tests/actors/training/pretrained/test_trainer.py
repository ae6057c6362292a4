"""Training from a converted checkpoint: exits come to agree, full depth stays or is guarded."""

from pathlib import Path
from typing import Any

import pytest
import torch

from actors.model.checkpoint import load_checkpoint
from actors.training.pretrained.agreement import engine_config, measure
from actors.training.pretrained.held_out import HeldOut
from actors.training.pretrained.parts import rate_share
from conf.engine import EngineConfig, Gate
from conf.errors import UserError
from conf.resolve import resolve
from jobs.cli import main
from tests.actors.interop.sources import make_source
from tests.actors.training.pretrained.small import DEEP, changed_names, make_config, trainer_of, weights_of


def test_frozen_exits_learn_and_full_depth_stays(converted: Path, tmp_path: Path) -> None:
    reports: list[dict[str, Any]] = []
    optimizer = {"total_steps": 40, "gate_steps": 10, "exit_lr": 2e-2}
    trainer = trainer_of(make_config(converted, tmp_path, optimizer=optimizer), converted, reports)
    assert trainer.run()
    assert trainer.marked is None
    before, after = load_checkpoint(converted / "checkpoint"), load_checkpoint(tmp_path / "checkpoint")
    assert after.config.untrained_exits == ()
    assert len(after.config.thresholds or ()) == len(after.config.gate_thresholds or ()) == 2
    by_gate = EngineConfig.model_validate({"gate": "classifier", "generation": {"max_new_tokens": 8}})
    assert resolve(after.config, by_gate).settings.thresholds == after.config.gate_thresholds
    with pytest.raises(UserError, match="needs a checkpoint with learned gates; deed train adds them"):
        resolve(before.config, by_gate)
    names = {"decoder.adapters.1.weight", "decoder.adapters.2.weight"}
    assert changed_names(converted / "checkpoint", tmp_path / "checkpoint") == names
    assert after.model.state_dict().keys() - before.model.state_dict().keys() == {
        f"decoder.gates.{layer}.{kind}" for layer in (1, 2) for kind in ("weight", "bias")
    }
    losses = [r["losses"]["exit_2"] for r in reports if r.get("stage") == "exits" and "losses" in r]
    assert losses[-1] < 0.7 * losses[0]
    table = {report["agreement"]: report["rows"] for report in reports if "agreement" in report}
    assert [row["gate"] for row in table["before"]] == ["softmax_max"]
    assert [row["gate"] for row in table["after"]] == ["softmax_max", "classifier"]
    assert {row["num_images"] for rows in table.values() for row in rows} == {5}
    (guard,) = (report["guard"] for report in reports if "guard" in report)
    assert guard["lost"] == 0.0
    (saved,) = (report["saved"] for report in reports if "saved" in report)
    assert all(value > 0 for value in saved.values())
    (left_out,) = (report["left_out"] for report in reports if "left_out" in report)
    assert [part["count"] for part in left_out] == [1], "the broken picture"


def test_thresholds_are_chosen_on_other_images_than_the_report(converted: Path, tmp_path: Path) -> None:
    reports: list[dict[str, Any]] = []
    trainer = trainer_of(make_config(converted, tmp_path), converted, reports)
    checkpoint, config, targets = trainer.checkpoint, trainer.config, trainer.targets
    learned = trainer.source.readable(trainer.places.training, targets.label)
    training = HeldOut.of(learned, 1, checkpoint.config.plan, config.preprocess)
    keys = [{row.key for row in part.rows} for part in (training, trainer.validation, trainer.test)]
    assert [len(part) for part in keys] == [13, 6, 5]
    assert not keys[0] & keys[1] | keys[0] & keys[2] | keys[1] & keys[2]

    def measured(report_on: HeldOut) -> dict[str, Any]:
        full = report_on.said(report_on.engine(checkpoint, targets, engine_config(config, checkpoint)), targets)
        chosen = {"choose_on": trainer.validation, "report_on": report_on, "full": full}
        return vars(measure(checkpoint, Gate.SOFTMAX_MAX, config, targets, **chosen)[0])

    trainer.finish.before()
    assert reports[0]["rows"] == [measured(trainer.test)]
    elsewhere = measured(training)
    assert elsewhere["thresholds"] == reports[0]["rows"][0]["thresholds"]
    assert elsewhere["mean_depth"] != reports[0]["rows"][0]["mean_depth"]


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize(("parts", "moves"), [
    ("everything", {"encoder", "decoder"}), ("decoder", {"decoder"}), ("low_rank", {"decoder"}),
])  # fmt: skip
def test_deep_supervision_moves_the_parts_that_are_named(
    converted: Path, tmp_path: Path, parts: str, moves: set[str]
) -> None:
    reports: list[dict[str, Any]] = []
    optimizer = {"total_steps": 20, "decoder_lr": 3e-3}
    config = make_config(converted, tmp_path, **DEEP, parts=parts, optimizer=optimizer)
    assert trainer_of(config, converted, reports).run()
    changed = changed_names(converted / "checkpoint", tmp_path / "checkpoint")
    assert {name.partition(".")[0] for name in changed} == moves
    assert "decoder.embedding.weight" in changed or parts == "low_rank"
    assert "decoder.layers.2.qkv.weight" in changed
    first, last = (r["losses"] for r in reports if "losses" in r)
    assert all(last[f"exit_{layer}"] < first[f"exit_{layer}"] for layer in (1, 2, 3))


@pytest.mark.usefixtures("untimed")
def test_a_model_that_lost_too_much_is_written_and_marked(converted: Path, tmp_path: Path) -> None:
    ruinous = {"decoder_lr": 0.3, "head_lr": 0.3}
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


@pytest.mark.usefixtures("untimed")
def test_a_finished_run_that_is_started_again_leaves_its_checkpoint_alone(converted: Path, tmp_path: Path) -> None:
    ruinous = {"decoder_lr": 0.3, "head_lr": 0.3}
    config = make_config(converted, tmp_path, mode="deep_supervision", optimizer=ruinous, max_points_lost=1.0)
    first = trainer_of(config, converted)
    assert first.run()
    (tmp_path / "checkpoint" / "exits.json").write_text("{}")  # put there since
    again = trainer_of(config, converted)
    assert again.run()
    assert again.marked == first.marked is not None
    assert (tmp_path / "checkpoint" / "exits.json").is_file()
    lenient = trainer_of(config.model_copy(update={"max_points_lost": 100.0}), converted)
    assert lenient.run()
    assert lenient.marked is None
    assert load_checkpoint(tmp_path / "checkpoint").config.points_lost is None


def test_a_loss_that_is_not_finite_ends_the_run_in_one_sentence(converted: Path, tmp_path: Path) -> None:
    mad = {"decoder_lr": 1e30, "head_lr": 1e30, "total_steps": 4, "warmup_steps": 0, "clip_norm": 1e30}
    with pytest.raises(UserError, match=r"the loss is not finite at step \d; lower the rates"):
        trainer_of(make_config(converted, tmp_path, **DEEP, optimizer=mad), converted).run()


@pytest.mark.usefixtures("unmeasured")
def test_gates_learn_on_the_averaged_weights_that_are_shipped(converted: Path, tmp_path: Path) -> None:
    config = make_config(converted, tmp_path, **DEEP, optimizer={"ema": 0.9, "gate_steps": 1, "decoder_lr": 1e-2})
    trainer = trainer_of(config, converted)
    assert trainer.run()
    for name, mean in trainer.averages.values.items():
        assert torch.equal(trainer.parameters[name], mean)


def test_rates_rise_to_their_peak_even_in_a_short_stage() -> None:
    assert max(rate_share(step, 20, 200) for step in range(20)) > 0.8
    assert rate_share(0, 1000, 200) < 0.01


@pytest.mark.usefixtures("untimed")
def test_another_risk_measures_anew_and_trains_nothing(converted: Path, tmp_path: Path) -> None:
    few = {"optimizer": {"total_steps": 1}}
    assert trainer_of(make_config(converted, tmp_path, **few), converted).run()
    first = load_checkpoint(tmp_path / "checkpoint")
    assert trainer_of(make_config(converted, tmp_path, **few, risk=0.5), converted).run()
    second = load_checkpoint(tmp_path / "checkpoint")
    assert first.sha256 == second.sha256
    assert first.config.thresholds != second.config.thresholds


@pytest.mark.usefixtures("untimed")
def test_a_checkpoint_keeps_the_prefix_its_outputs_were_learned_after(converted: Path, tmp_path: Path) -> None:
    few = {"optimizer": {"total_steps": 1}}
    config = make_config(converted, tmp_path, **DEEP, **few, decoder_prefix="w3 {prompt}")
    assert trainer_of(config, converted).run()
    assert load_checkpoint(tmp_path / "checkpoint").config.text.decoder_prefix == "w3 {prompt}"


@pytest.mark.usefixtures("untimed")
def test_exits_may_be_others_than_the_checkpoint_has(converted: Path, tmp_path: Path) -> None:
    few = {"optimizer": {"total_steps": 1}}
    assert trainer_of(make_config(converted, tmp_path, **few, exits=[2, 3]), converted).run()
    assert load_checkpoint(tmp_path / "checkpoint").config.exits == (2, 3)
    with pytest.raises(UserError, match=r"exits must be increasing layers that end with 3, got \[2, 1\]"):
        trainer_of(make_config(converted, tmp_path / "b", **few, exits=[2, 1]), converted)


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("changes", [{}, DEEP], ids=["frozen", "deep"])
def test_accumulated_steps_are_those_of_the_whole_batch(
    converted: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    def weights(name: str, accumulate: int, batch_images: int = 8) -> torch.Tensor:
        optimizer = {
            "accumulate": accumulate, "batch_images": batch_images, "total_steps": 1, "warmup_steps": 0, "exit_lr": 1.0
        }  # fmt: skip
        trainer = trainer_of(make_config(converted, tmp_path / name, **changes, optimizer=optimizer), converted)
        groups = [{**group, "lr": 0.0} for group in trainer.optimizers["exits"].param_groups]
        trainer.optimizers["exits"] = torch.optim.SGD(groups, lr=1.0)
        assert trainer.run()
        return weights_of(trainer)

    whole = weights("whole", 1)
    for accumulate in (2, 4):
        torch.testing.assert_close(weights(f"parts-{accumulate}", accumulate), whole, atol=1e-6, rtol=0)
    assert (weights("fewer", 1, 4) - whole).abs().max() > 1e-4


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("changes", [{}, {**DEEP, "parts": "everything"}], ids=["frozen", "deep"])
def test_bfloat16_trains_close_to_float32(converted: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    def losses(precision: str) -> list[float]:
        reports: list[dict[str, Any]] = []
        optimizer = {"total_steps": 5, "gate_steps": 3}
        config = make_config(converted, tmp_path / precision, **changes, precision=precision, optimizer=optimizer)
        assert trainer_of(config, converted, reports).run()
        return [r["losses"]["exit_2"] for r in reports if "losses" in r]

    exact, rough = losses("float32"), losses("bfloat16")
    assert len(exact) == 2
    assert exact != rough
    assert rough == pytest.approx(exact, rel=0.1)


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("family", ["t5", "bart", "udop", "florence2", "trocr", "donut", "blip", "t5gemma2"])
def test_a_bfloat16_step_of_every_kind_of_source(family: str, converted: Path, tmp_path: Path) -> None:
    make_source(family, tmp_path / "source")
    assert main(["convert", str(tmp_path / "source"), str(tmp_path / "checkpoint")]) == 0
    for name, changes in {"frozen": {}, "deep": {**DEEP, "parts": "everything", "checkpointing": True}}.items():
        config = make_config(
            converted, tmp_path / name, **changes, checkpoint=str(tmp_path / "checkpoint"), precision="bfloat16",
            optimizer={"total_steps": 1, "gate_steps": 1}, max_images=16,
        )  # fmt: skip
        reports: list[dict[str, Any]] = []
        assert trainer_of(config, converted, reports).run()
        losses = [report["losses"] for report in reports if "losses" in report]
        assert len(losses) == 2
        assert all(0 < loss < 20 for values in losses for loss in values.values())
