"""Training resumes exactly, learns, and its loss is the paper's."""

import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.model.checkpoint import load_checkpoint
from actors.model.model import PackedBatch
from actors.training.corpus import LabelledCorpus
from actors.training.scratch.data import Packer
from actors.training.scratch.loss import multi_exit_loss
from actors.training.scratch.optimizers import rate_share
from actors.training.scratch.trainer import Trainer
from conf.checkpoint_files import weights_sha256
from conf.errors import UserError
from conf.training import LossConfig, OptimizerConfig
from jobs.cli import main
from tests.actors.training.corpus import tiny_config, write_corpus


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_corpus(tmp_path_factory.mktemp("corpus"), 40)


def _final_weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def _first_batch(trainer: Trainer, size: int) -> PackedBatch:
    samples = trainer.corpus.samples(trainer.corpus.shards[0])[:size]
    return trainer.packer.pack(samples, trainer.packer.choose(samples, 0), torch.device("cpu"))


@pytest.mark.parametrize("optimizer", [{}, {"encoder_steps": 5, "encoder_batch_images": 8, "muon_lr": 5e-3}])
def test_a_stopped_run_resumes_to_the_same_weights(tmp_path: Path, shards: str, optimizer: dict[str, Any]) -> None:
    optimizer = {"batch_images": 4, "total_steps": 12, "warmup_steps": 2, **optimizer}
    straight = Trainer(tiny_config(tmp_path / "a", shards, optimizer=optimizer), lambda _: None)
    assert straight.run()
    calls = iter(range(100))
    config = tiny_config(tmp_path / "b", shards, optimizer=optimizer)
    assert not Trainer(config, lambda _: None).run(lambda: next(calls) == 6)
    resumed = Trainer(config, lambda _: None)
    assert resumed.step == 7
    assert resumed.run()
    expected = _final_weights(straight)
    for name, tensor in _final_weights(resumed).items():
        assert torch.equal(tensor, expected[name]), name


def test_a_resumed_run_reports_the_same_losses(tmp_path: Path, shards: str) -> None:
    """Stopped in the middle of a report's window."""
    optimizer = {"batch_images": 4, "total_steps": 24, "warmup_steps": 2}

    def losses(output: Path, *stops: int) -> list[Any]:
        reports: list[dict[str, Any]] = []
        config = tiny_config(output, shards, optimizer=optimizer, validate_every=8)
        for stop in stops:
            trainer = Trainer(config, reports.append)
            assert not trainer.run(lambda trainer=trainer, stop=stop: trainer.step == stop)
        assert Trainer(config, reports.append).run()
        return [(r["step"], r.get("losses"), r.get("validation")) for r in reports]

    assert losses(tmp_path / "a") == losses(tmp_path / "b", 3, 17)


@pytest.mark.integration
def test_sigkill_at_any_moment_leads_to_the_same_weights_and_the_same_log(tmp_path: Path, shards: str) -> None:
    optimizer = {"batch_images": 4, "total_steps": 34, "warmup_steps": 2}

    def command(name: str) -> list[str]:
        config = tiny_config(tmp_path / name, shards, save_every=7, validate_every=10, optimizer=optimizer)
        (tmp_path / f"{name}.json").write_text(config.model_dump_json())
        return [sys.executable, "-m", "jobs.cli", "train", "--config", str(tmp_path / f"{name}.json")]

    process = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL)
    log, deadline = tmp_path / "killed" / "log.csv", time.monotonic() + 120
    while not (log.is_file() and "train,20," in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed_from = json.loads((tmp_path / "killed" / "state" / "position.json").read_text())["step"]
    assert 14 <= resumed_from < 34
    assert main(command("killed")[3:]) == 0
    assert main(command("straight")[3:]) == 0
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    assert weights_sha256(killed / "checkpoint") == weights_sha256(straight / "checkpoint")
    assert log.read_text() == (straight / "log.csv").read_text()
    lines = [(run / "log.jsonl").read_text().splitlines() for run in (killed, straight)]
    steps = [[json.loads(line)["step"] for line in run] for run in lines]
    assert steps[0] == steps[1] == [10, 10, 20, 20, 30, 30, 34]


def test_training_learns_and_the_exported_checkpoint_loads(tmp_path: Path, shards: str) -> None:
    reports: list[dict[str, Any]] = []
    optimizer = {"batch_images": 8, "total_steps": 60, "warmup_steps": 5, "peak_lr": 5e-3}
    trainer = Trainer(tiny_config(tmp_path, shards, optimizer=optimizer), reports.append)
    trainer.run()
    losses = [report["losses"]["loss"] for report in reports if "losses" in report]
    assert losses[-1] < 0.6 * losses[0], losses
    validation = [report["validation"] for report in reports if "validation" in report][-1]
    assert list(validation["token_accuracy_by_exit"]) == ["1", "2", "3"]
    checkpoint = load_checkpoint(tmp_path / "checkpoint")
    assert checkpoint.config == trainer.model_config
    batch = _first_batch(trainer, 4)
    trainer.model.eval()
    with torch.no_grad():
        ours, theirs = trainer.model(batch)[-1], checkpoint.model(batch)[-1]
    torch.testing.assert_close(ours, theirs, atol=0.05, rtol=0.05)  # stored in half precision


def test_packing_many_prompts_per_image_equals_one_at_a_time(tmp_path: Path, shards: str) -> None:
    trainer = Trainer(tiny_config(tmp_path, shards), lambda _: None)
    trainer.model.eval()
    [sample] = trainer.corpus.samples(trainer.corpus.shards[0])[:1]
    packer = trainer.packer
    packed = _first_batch(trainer, 1)
    with torch.no_grad():
        hidden = trainer.model(packed)[-1]
        for segment, pair in enumerate(packer.choose_pairs(sample, 0), start=1):
            prompt_ids = torch.tensor([pair.prompt])
            states, mask = trainer.model.encode(
                packed.pixels, prompt_ids, torch.ones_like(prompt_ids, dtype=torch.bool)
            )
            length = len(pair.target) + 1
            alone = trainer.model.decoder(
                packed.target_inputs[packed.target_segments == segment][None],
                torch.arange(length)[None],
                states,
                torch.ones(1, 1, length, length, dtype=torch.bool).tril(),
                mask[:, None, None, :],
            )[-1]
            torch.testing.assert_close(alone[0], hidden[packed.target_segments == segment], atol=1e-5, rtol=1e-4)


def test_loss_is_mean_of_exits_plus_the_last(tmp_path: Path, shards: str) -> None:
    trainer = Trainer(tiny_config(tmp_path, shards), lambda _: None)
    batch = _first_batch(trainer, 4)
    _, states, segments = trainer.model.encode_packed(batch)
    loss, per_exit, _ = multi_exit_loss(trainer.model, batch, states, segments, LossConfig())
    torch.testing.assert_close(loss, torch.stack(per_exit).mean() + per_exit[-1])
    for weights, expected in (("mean", [1 / 3] * 3), ("index", [1 / 6, 2 / 6, 3 / 6])):
        loss, per_exit, _ = multi_exit_loss(trainer.model, batch, states, segments, LossConfig(weights=weights))
        torch.testing.assert_close(loss, (torch.stack(per_exit) * torch.tensor(expected)).sum())


@pytest.mark.parametrize("kind", ["scenes", "ofa"])
@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_accumulated_steps_are_those_of_the_whole_batch(
    tmp_path: Path, shards: str, accumulate: int, kind: str
) -> None:
    def moved(name: str, accumulate: int, batch_images: int = 8) -> torch.Tensor:
        """What one step of plain gradient descent adds to the weights."""
        optimizer = {"batch_images": batch_images, "accumulate": accumulate, "total_steps": 9, "warmup_steps": 0}
        config = tiny_config(tmp_path / name, shards, optimizer=optimizer, loss={"grounding_weight": 0.0})
        architecture = config.architecture.model_copy(update={"kind": kind, "max_prompt_tokens": 32})
        trainer = Trainer(config.model_copy(update={"architecture": architecture}), lambda _: None)
        for module in trainer.model.modules():  # its statistics are each micro-batch's own
            if isinstance(module, torch.nn.BatchNorm2d):
                module.train = lambda mode=True, module=module: module  # type: ignore[method-assign]
                module.training = False
        parameters = list(trainer.model.parameters())
        trainer.optimizers, trainer.peak_rates = [torch.optim.SGD(parameters, lr=1.0)], [1.0]
        before = [p.detach().clone() for p in parameters]
        trainer._train_step(next(trainer._batches()))
        return torch.cat([(p.detach() - old).flatten() for p, old in zip(parameters, before, strict=True)])

    whole, parts, fewer = moved("whole", 1), moved("parts", accumulate), moved("fewer", 1, 4)
    torch.testing.assert_close(parts, whole, atol=2e-6, rtol=1e-4)
    assert float((fewer - whole).norm() / whole.norm()) > 0.1


def test_every_sample_once_per_epoch_in_an_order_that_depends_on_the_seed(shards: str) -> None:
    corpus = LabelledCorpus([shards])
    keys = [[s.key for _, s in corpus.epoch(seed=seed, epoch=0, shuffle_shards=2)] for seed in (0, 0, 1)]
    assert keys[0] == keys[1] != keys[2]
    assert sorted(keys[0]) == sorted(keys[2]) == [f"k{i:05d}" for i in range(40)]


def test_pairs_fit_the_budgets(tmp_path: Path, shards: str) -> None:
    trainer = Trainer(tiny_config(tmp_path, shards), lambda _: None)
    data = trainer.config.data.model_copy(update={"prompt_tokens": 12, "target_tokens": 14})
    packer = Packer(trainer.packer.codec, trainer.model_config, data, seed=0)
    for sample in trainer.corpus.samples(trainer.corpus.shards[0]):
        pairs = packer.choose_pairs(sample, 0)
        assert sum(len(pair.prompt) for pair in pairs) <= 12
        assert sum(len(pair.target) + 1 for pair in pairs) <= 14


def test_learning_rate_warms_up_stays_and_falls() -> None:
    config = OptimizerConfig(total_steps=100, warmup_steps=10, decay_fraction=0.5)
    rates = [rate_share(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:50] == [1.0] * 40
    assert all(b < a for a, b in itertools.pairwise(rates[51:]))
    assert 0.01 <= rates[-1] < 0.02


def test_the_decoder_warms_up_anew_after_the_encoder_steps() -> None:
    config = OptimizerConfig(total_steps=100, warmup_steps=10, encoder_steps=40, decay_fraction=0.1)
    rates = [rate_share(step, config) for step in range(100)]
    assert rates[39] == 1.0
    assert rates[40] == pytest.approx(0.1)
    assert rates[50] == 1.0


def test_encoder_steps_need_a_corpus_with_places(tmp_path: Path, shards: str) -> None:
    optimizer = {"batch_images": 4, "total_steps": 12, "encoder_steps": 4}
    with pytest.raises(UserError, match=r"optimizer\.encoder_steps needs"):
        Trainer(tiny_config(tmp_path, shards, optimizer=optimizer, loss={"grounding_weight": 0}), lambda _: None)


def test_missing_shards_are_the_users_mistake() -> None:
    with pytest.raises(UserError, match="no shard matches 'nowhere"):
        LabelledCorpus(["nowhere/*.tar"])
