"""`deed train` from a checkpoint by its command line: what is learned, what is said, how it ends."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from actors.model.checkpoint import load_checkpoint
from conf.pretrained import PretrainedConfig
from conf.training import TrainConfig
from jobs.cli import main
from jobs.shared.training_reports import PretrainedReport
from jobs.train import make_parser, read_training
from tests.actors.interop.sources import make_source
from tests.actors.training.corpus import tiny_config
from tests.jobs.text_runs import FakeRuns, runs
from tests.shards import image_bytes

__all__ = ["runs"]
ROOT = Path(__file__).parents[2]
SMALL = {
    "validation_images": 3, "test_images": 3, "max_new_tokens": 8, "num_slots": 4, "device": "cpu", "num_threads": 1,
    "max_points_lost": 100, "save_every": 2, "optimizer.batch_images": 4, "optimizer.total_steps": 6,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted random Pix2Struct, and photographs, each with a caption beside it that only some tests look at."""
    root = tmp_path_factory.mktemp("train")
    make_source("pix2struct", root / "source", seed=4)
    assert main(["convert", str(root / "source"), str(root / "converted"), "--exits", "1,2,3"]) == 0
    (root / "photos").mkdir()
    for number in range(16):
        (root / "photos" / f"{number}.png").write_bytes(image_bytes((10 * number, 90, 200 - number), (16, 16)))
        (root / "photos" / f"{number}.txt").write_text(f"w{number % 5} w7")
    return root


def train(folder: Path, out: Path, *more: str, **changes: Any) -> int:
    sets = [word for key, value in {**SMALL, **changes}.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    return main(["train", str(folder / "photos"), "--checkpoint", str(folder / "converted"), "--out", str(out), *more,
                 *sets])  # fmt: skip


def test_photographs_alone_are_enough(
    folder: Path, tmp_path: Path, runs: FakeRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(folder, tmp_path / "run") == 0
    said = capsys.readouterr().out
    assert f"16 texts to learn from: {tmp_path}/run/targets" in said
    assert "exits step      6/6  exit 1 " in said
    assert said.splitlines()[-1] == f"checkpoint: {tmp_path}/run/checkpoint"
    trained = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert trained.config.untrained_exits == ()
    assert len(trained.config.thresholds or ()) == 2
    weights = trained.sha256
    assert train(folder, tmp_path / "run") == 0, "there is nothing left to do"
    assert load_checkpoint(tmp_path / "run" / "checkpoint").sha256 == weights
    table = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert len({row.rpartition(",")[0] for row in table}) == len(table)


def test_labels_need_no_run(folder: Path, tmp_path: Path, runs: FakeRuns) -> None:
    assert train(folder, tmp_path / "run", "--target", "txt") == 0
    assert runs.jobs == []


def test_frozen_moves_nothing_but_the_exits(folder: Path, tmp_path: Path, runs: FakeRuns) -> None:
    assert train(folder, tmp_path / "run", "--mode", "frozen") == 0
    paths = (folder / "converted", tmp_path / "run" / "checkpoint")
    before, after = (load_checkpoint(path).model.state_dict() for path in paths)
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed == {"decoder.adapters.1.weight", "decoder.adapters.2.weight"}


def test_a_model_that_lost_too_much_ends_with_a_code_of_its_own(
    folder: Path, tmp_path: Path, runs: FakeRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    ruinous = {"optimizer.decoder_lr": 0.3, "optimizer.head_lr": 0.3, "max_points_lost": 1.0}
    for _ in range(2):
        assert train(folder, tmp_path / "run", **ruinous) == 8
        assert "deed train: full depth lost " in capsys.readouterr().err
    assert (tmp_path / "run" / "checkpoint" / "config.json").is_file()


@pytest.mark.parametrize("code", [3, 5, 130, 143])
def test_it_ends_as_the_run_that_writes_its_texts_does(folder: Path, tmp_path: Path, runs: FakeRuns, code: int) -> None:
    runs.ends_with = code
    assert train(folder, tmp_path / "run") == code
    assert not (tmp_path / "run" / "state").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_training_between_two_steps(
    folder: Path, tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    handlers = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    say = PretrainedReport.__call__

    def stop_at_step_10(report: PretrainedReport, values: dict[str, Any]) -> None:
        say(report, values)
        if values.get("step") == 10 and "losses" in values:
            os.kill(os.getpid(), number)

    try:
        longer = {"optimizer.total_steps": 12}
        assert train(folder, tmp_path / "whole", "--target", "txt", **longer) == 0
        with monkeypatch.context() as patch:
            patch.setattr(PretrainedReport, "__call__", stop_at_step_10)
            assert train(folder, tmp_path / "run", "--target", "txt", **longer) == 128 + number
        said = capsys.readouterr().err
        assert f"deed train: stopped by {number.name}; run the same command again to continue" in said
        assert json.loads((tmp_path / "run" / "state" / "position.json").read_text())["step"] == 10
        assert train(folder, tmp_path / "run", "--target", "txt", **longer) == 0
    finally:
        for one, handler in handlers.items():
            signal.signal(one, handler)
    shipped = [load_checkpoint(tmp_path / name / "checkpoint").sha256 for name in ("whole", "run")]
    assert shipped[0] == shipped[1]


def config_by(*arguments: str) -> TrainConfig | PretrainedConfig:
    return read_training(make_parser().parse_args(arguments))


def test_a_file_says_by_its_keys_what_is_trained(folder: Path, tmp_path: Path) -> None:
    own = f"checkpoint={folder}/converted"
    for name in ("frozen", "deep-supervision"):
        config = config_by("--config", str(ROOT / "conf" / f"{name}.yaml"), "--set", own)
        assert isinstance(config, PretrainedConfig)
        assert config.is_frozen == (name == "frozen")
    file = tmp_path / "train.yaml"
    file.write_text(yaml.safe_dump({"source": {"paths": ["a.tar"]}, "output": "o"}))
    config = config_by("--config", str(file), "--checkpoint", str(folder / "converted"), "--mode", "frozen")
    assert isinstance(config, PretrainedConfig)
    assert (config.mode, config.checkpoint) == ("frozen", str(folder / "converted"))
    file.write_text(tiny_config(tmp_path / "run", "a.tar").model_dump_json())
    scratch = config_by("--config", str(file), "--out", "runs/other", "--set", "seed=3")
    assert isinstance(scratch, TrainConfig)
    assert (scratch.output, scratch.seed) == ("runs/other", 3)


@pytest.mark.parametrize(("arguments", "said"), [
    ((), "name what to read"), (("photos",), "name the model, --checkpoint FOLDER"),
    (("photos", "--config", "{scratch}"), "SOURCE is for training from a checkpoint: name it, --checkpoint FOLDER"),
    (("--target", "txt", "--config", "{scratch}"), "--target is for training from a checkpoint"),
    (("--prompt", "what?", "--config", "{scratch}"), "--prompt is for training from a checkpoint"),
    (("--mode", "frozen", "--config", "{scratch}"), "unknown key "),
])  # fmt: skip
def test_what_does_not_go_together_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    scratch = tmp_path / "scratch.yaml"
    scratch.write_text(tiny_config(tmp_path / "run", "a.tar").model_dump_json())
    assert main(["train", *(str(scratch) if word == "{scratch}" else word for word in arguments)]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1
