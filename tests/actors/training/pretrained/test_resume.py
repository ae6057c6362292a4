"""Kills change nothing: a run that goes on ends with the weights and the log of one that was never interrupted."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.model.checkpoint import load_checkpoint
from actors.training.pretrained.trainer import PretrainedTrainer
from conf.errors import UserError
from jobs.shared.training_reports import PretrainedReport
from tests.actors.training.pretrained.small import DEEP, make_config, trainer_of


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("changes", [
    {}, DEEP, {**DEEP, "loss": {"layer_dropout": 0.5}, "parts": "everything"},
    {**DEEP, "parts": "low_rank", "train_encoder": True}, {**DEEP, "optimizer": {"ema": 0.5}},
], ids=["frozen", "deep", "dropout", "low_rank", "ema"])  # fmt: skip
def test_a_stopped_run_continues_to_the_same_weights(converted: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    small = {
        **changes,
        "optimizer": {"total_steps": 5, "gate_steps": 2, "accumulate": 2, **changes.get("optimizer", {})},
    }
    straight = trainer_of(make_config(converted, tmp_path / "a", **small), converted)
    assert straight.run()
    config = make_config(converted, tmp_path / "b", **small)
    for stops_after in (3, 3):  # in the main stage, then among the gates
        calls = iter(range(1, 100))
        assert not trainer_of(config, converted).run(lambda calls=calls, after=stops_after: next(calls) == after)
    resumed = trainer_of(config, converted)
    assert resumed.step == 6
    assert resumed.run()
    weights = [trainer._shipped() for trainer in (straight, resumed)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


@pytest.mark.usefixtures("untimed")
def test_a_killed_run_logs_what_an_uninterrupted_one_does(converted: Path, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def trainer(name: str, killed_at: int = 0) -> PretrainedTrainer:
        def say(values: dict[str, Any]) -> None:
            report(values)
            if values["step"] == killed_at and "losses" in values:
                raise Killed

        report = PretrainedReport(tmp_path / name)
        settings = {**DEEP, "validate_every": 6, "save_every": 4, "optimizer": {"total_steps": 12}}
        made = PretrainedTrainer(make_config(converted, tmp_path / name, **settings), say, runs=[None])
        report.log.rewind(made.step)
        return made

    assert trainer("straight").run()
    with pytest.raises(Killed):
        trainer("killed", killed_at=10).run()
    resumed = trainer("killed")
    assert resumed.step == 8
    assert resumed.run()
    logs = [(tmp_path / name / "log.csv").read_text() for name in ("straight", "killed")]
    assert logs[0] == logs[1]
    shipped = [load_checkpoint(tmp_path / name / "checkpoint").sha256 for name in ("straight", "killed")]
    assert shipped[0] == shipped[1]


@pytest.fixture(scope="module")
def stopped(converted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that was stopped after its first step."""
    output = tmp_path_factory.mktemp("stopped")
    trainer = trainer_of(make_config(converted, output, **DEEP), converted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.finish, "before", lambda: None)
        assert not trainer.run(lambda: True)
    return output


@pytest.mark.parametrize("change", [
    {"max_new_tokens": 5}, {"max_images": 20}, {"source": {"prompt": {"template": "another"}}}, {"test_images": 4},
    {"optimizer": {"total_steps": 9}}, {"loss": {"soft": 0.5}}, {"checkpoint": "other"},
], ids=lambda change: next(iter(change)))  # fmt: skip
def test_another_run_is_not_continued(converted: Path, stopped: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    config = make_config(converted, stopped, **DEEP)
    assert trainer_of(config, converted).step == 1, "the same run is"
    if "checkpoint" in change:
        shutil.copytree(converted / "checkpoint", tmp_path / "other")
        weights = load_file(tmp_path / "other" / "model.safetensors")
        save_file({name: tensor * 2 for name, tensor in weights.items()}, tmp_path / "other" / "model.safetensors")
        change = {"checkpoint": str(tmp_path / "other")}
    if "source" in change:
        change = {"source": {**config.source.model_dump(), **change["source"]}}
    with pytest.raises(UserError, match=r"holds a run with another .*; name another output"):
        trainer_of(make_config(converted, stopped, **{**DEEP, **change}), converted)


@pytest.mark.usefixtures("unmeasured")
def test_a_stage_ends_when_validation_stops_improving(converted: Path, tmp_path: Path) -> None:
    reports: list[dict[str, Any]] = []
    optimizer = {"total_steps": 40, "exit_lr": 0.0}
    config = make_config(converted, tmp_path, optimizer=optimizer, validate_every=2, patience=2)
    trainer = trainer_of(config, converted, reports)
    assert trainer.run()
    # The first validation is the best, two more are not better.
    assert [report["step"] for report in reports if "validation" in report] == [2, 4, 6]
    assert (trainer.step, trainer.done) == (40, 6)
    again = trainer_of(config, converted, reports)
    assert again.run(), "nothing is left to do"
    assert (again.step, again.done) == (40, 6)


def test_the_original_is_measured_anew_where_a_dead_run_had_asked_something_else(
    converted: Path, tmp_path: Path
) -> None:
    """Killed before its first state, a run leaves nothing else behind that says what it was."""

    def texts(test_images: int) -> int:
        config = make_config(converted, tmp_path, **DEEP, test_images=test_images)
        trainer_of(config, converted).finish.before()
        return len(json.loads((tmp_path / "state" / "before.json").read_text())["texts"])

    assert [texts(5), texts(4)] == [5, 4]
