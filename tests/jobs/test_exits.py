"""`deed exits`: the whole command on a tiny model, what it writes, and the mistakes one can make."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.engine.engine import Engine
from actors.engine.request import Request
from actors.model.checkpoint import load_checkpoint, save_checkpoint
from actors.model.model import MultiExitModel
from actors.training.exits.asked import ask
from actors.training.exits.every_layer import open_every_layer
from actors.training.exits.measure import leaving_at, timed
from actors.training.exits.work import Texts, work_of
from actors.training.rows.row_source import RowSource
from actors.training.rows.targets import Targets
from conf.checkpoint_files import read_model_config
from conf.engine import EngineConfig, GenerationConfig
from conf.exits import ExitsConfig
from conf.pretrained import PretrainedConfig
from jobs.cli import main
from tests.actors.training.own_run import write_own_run
from tests.integration.test_model import write_tiny_checkpoint
from tests.shards import sample_members, write_tar

NUM_LAYERS = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("exits")
    write_tar(root / "s.tar", [member for n in range(12) for member in sample_members(n)])
    write_tiny_checkpoint(root / "random", thresholds=None)
    rewrite(root / "random", root / "checkpoint", quieter=0.2)
    return root


def rewrite(source: Path, target: Path, quieter: float = 1.0, **changes: object) -> Path:
    """Copy a checkpoint with another configuration, without what this has no exit or layer for.

    `quieter`: factor on the matrices of layers, whose small changes let exits agree with full depth.
    """
    loaded = load_checkpoint(source)
    config = loaded.config.model_copy(update=changes)
    state = {n: t for n, t in loaded.model.state_dict().items() if n in MultiExitModel(config).state_dict()}
    for name, tensor in state.items():
        if ".layers." in name and tensor.dim() >= 2:
            state[name] = tensor * quieter
        elif ".adapters." in name and quieter != 1.0:
            state[name] = torch.eye(len(tensor))
    save_checkpoint(target, config, state, loaded.codec.tokenizer)
    return target


def run(root: Path, checkpoint: Path, *more: str) -> int:
    quick = ["--set", "rounds=1", "--set", "engine.num_slots=3", "--set", "engine.generation.max_new_tokens=8"]
    return main(["exits", str(root / "s.tar"), "--checkpoint", str(checkpoint), *quick, *more])


def test_the_choice_is_written_and_the_engine_leaves_only_there(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = rewrite(folder / "checkpoint", tmp_path / "checkpoint")
    assert run(folder, checkpoint, "--images", "10", "--set", "risk=0.6") == 0
    assert read_model_config(checkpoint).thresholds is None
    evidence = json.loads((checkpoint / "exits.json").read_text())
    assert evidence["rows"] == {"chosen_by": 5, "reported_on": 5}
    assert evidence["thresholds_written"] is False
    assert [layer["layer"] for layer in evidence["layers"]] == [1, 2, 3, 4]
    times = [plan["time_together"] for plan in evidence["table"]]
    assert 1 < len(times) <= 5
    assert times[0] < 1
    assert [costs["num_slots"] for costs in evidence["costs"]] == [1, 3]
    assert "least time at 3 slots, risk 0.6" in capsys.readouterr().out

    assert run(folder, checkpoint, "--images", "10", "--set", "risk=0.6", "--set", "best_for=latency", "--write") == 0
    evidence = json.loads((checkpoint / "exits.json").read_text())
    config = read_model_config(checkpoint)
    assert config.thresholds is not None
    open_ = [layer for layer, t in zip(config.exits, config.thresholds, strict=False) if t <= 1]
    assert open_ == evidence["to_use"]["exits"] != []
    engine = Engine(load_checkpoint(checkpoint).model, EngineConfig(generation=GenerationConfig(max_new_tokens=8)))
    for number in range(6):
        engine.add(Request(number, np.full((32, 32, 3), 40 * number, np.uint8), (5, 6)))
    left: set[int] = set()
    while engine.has_work():
        left.update(layer for done in engine.step() for layer in done.exit_layers)
    assert left <= {*open_, NUM_LAYERS}


def test_untrained_exits_are_said_and_not_written(folder: Path, tmp_path: Path,
                                                  capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    checkpoint = rewrite(folder / "checkpoint", tmp_path / "one-exit", exits=(NUM_LAYERS,))
    assert run(folder, checkpoint, "--set", "risk=0.8") == 0
    said = capsys.readouterr()
    chosen = json.loads((checkpoint / "exits.json").read_text())["chosen"]["exits"]
    assert f"exits {chosen} are guesses until trained" in said.out
    assert f"--set exits=[{','.join(map(str, [*chosen, NUM_LAYERS]))}]" in said.out
    assert run(folder, checkpoint, "--set", "risk=0.8", "--write") == 2
    assert "no exit that" in capsys.readouterr().err
    assert read_model_config(checkpoint).thresholds is None


def test_mistakes_are_one_sentence(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> str:
        assert main(["exits", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    checkpoint = str(folder / "checkpoint")
    tar = str(folder / "s.tar")
    assert "name what to read" in said("--checkpoint", checkpoint)
    assert "name the model" in said(tar)
    assert "candidates must be layers from 1 to 4" in said(tar, "--checkpoint", checkpoint, "--set", "candidates=[7]")
    assert "engine.thresholds is what" in said(tar, "--checkpoint", checkpoint, "--set", "engine.thresholds=[1.0]")
    assert "not with labels" in said(tar, "--checkpoint", checkpoint, "--target", "auto")
    write_tar(tmp_path / "few.tar", sample_members(1))
    assert "no two images to choose and to report by" in said(str(tmp_path / "few.tar"), "--checkpoint", checkpoint)
    decoder = read_model_config(checkpoint).decoder.model_copy(update={"num_layers": 1})
    shallow = rewrite(folder / "checkpoint", tmp_path / "one-layer", decoder=decoder, exits=(1,))
    assert "has one layer" in said(tar, "--checkpoint", str(shallow))


def test_an_opened_layer_says_what_the_shared_head_makes_of_it(folder: Path, tmp_path: Path) -> None:
    few = load_checkpoint(rewrite(folder / "checkpoint", tmp_path / "few-exits", exits=(2, NUM_LAYERS)))
    opened = open_every_layer(few)
    assert opened.config.exits == (1, 2, 3, 4, 5)
    assert opened.config.untrained_exits == (1, 3, 4)
    h = torch.randn(3, few.config.decoder.d_model)
    torch.testing.assert_close(opened.model.decoder.exit_logits(2, h), few.model.decoder.exit_logits(2, h))
    torch.testing.assert_close(opened.model.decoder.exit_logits(3, h), few.model.decoder.exit_logits(NUM_LAYERS, h))


def test_a_finished_run_gives_the_texts_that_are_decoded_here_otherwise(folder: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(folder / "checkpoint")
    source = {"kind": "webdataset", "paths": [str(folder / "s.tar")]}
    values = {"checkpoint": str(folder / "checkpoint"), "source": source}
    training = PretrainedConfig.model_validate({**values, "output": "nowhere", "max_new_tokens": 8})
    run = write_own_run(training, tmp_path / "run")
    config = ExitsConfig.model_validate({**values, "target": {"run": run}})
    engine = EngineConfig(generation=GenerationConfig(max_new_tokens=8))
    told = ask(RowSource(config, checkpoint.config.plan), Targets(checkpoint, config.all_tasks, (run,), 8), engine)
    decoded = ask(RowSource(config, checkpoint.config.plan), Targets(checkpoint, (), (), 8), engine)
    assert [row.targets for row in told.images.rows] == [row.targets for row in decoded.images.rows]
    assert told.num_rows == 12


@pytest.mark.parametrize("slots", [1, 4])
def test_the_engine_does_the_work_that_is_counted(folder: Path, slots: int) -> None:
    """Rows and positions are the engine's own to the last one; visits are as full as the model of the cost says."""
    checkpoint = load_checkpoint(folder / "random")
    exits, generation = (1, 3, NUM_LAYERS), GenerationConfig(max_new_tokens=8)
    config = leaving_at(EngineConfig(num_slots=slots, generation=generation), exits, (0.3, 0.3))
    requests = [Request(n, np.full((32, 32, 3), 9 * n, np.uint8), (5, 6)) for n in range(16)]
    done = Engine(checkpoint.model, config)
    for request in requests:
        done.add(request)
    completions = []
    while done.has_work():
        completions += done.step()
    layers = [completion.exit_layers for completion in completions]
    assert len({layer for text in layers for layer in text}) > 1, "the model shows nothing about depth"
    texts = Texts(np.array([len(text) for text in layers]), np.zeros(len(layers), dtype=int))
    counted = work_of(np.concatenate(layers), exits, texts, slots, built_from=None)
    measured = timed(checkpoint, {"early": config}, requests, 1)["early"].work
    assert (measured.rows, measured.layer_positions) == (counted.rows, counted.layer_positions)
    assert measured.visits >= counted.visits
    if slots == 1:
        assert (measured.visits, measured.layer_visits) == (counted.visits, counted.layer_visits)
