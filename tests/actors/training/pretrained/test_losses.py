"""The losses of all exits: by hand on a tiny case, and where their gradients go on models."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from actors.model.model import MultiExitModel, PackedBatch
from actors.training.exit_weights import exit_weights
from actors.training.pretrained.losses import ExitLosses, exit_losses
from conf.pretrained import ExitLossConfig
from tests.actors.engine.tiny import VARIANTS
from tests.actors.training.pretrained.batches import batch_for, converted, trainable

IGNORED = -100
LABELS = torch.tensor([[1, 1, IGNORED], [0, IGNORED, IGNORED]])
EVEN, SURE = [0.0, 0.0], [0.0, math.log(3)]  # probabilities 1/2, 1/2 and 1/4, 3/4


def _by_hand() -> tuple[Any, list[Tensor]]:
    """Three exits whose logits are their hidden states; what stands at ignored places must not matter."""
    wild = [50.0, -50.0]
    shape = [(EVEN, EVEN, EVEN), (SURE, EVEN, SURE), (SURE, SURE, EVEN)]  # exit -> logits of the three labels
    hidden = [torch.tensor([[a, b, wild], [c, wild, wild]], requires_grad=True) for a, b, c in shape]
    decoder = SimpleNamespace(exit_logits=lambda layer, h, head_gradient: h)
    return SimpleNamespace(config=SimpleNamespace(exits=(1, 2, 3)), decoder=decoder), hidden


HALF, QUARTER, THREE = math.log(2), math.log(4), math.log(4 / 3)  # nats of what has such a probability
HARD = [HALF, (THREE + HALF + QUARTER) / 3, (THREE + THREE + HALF) / 3]
SURE_EVEN = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)  # KL(SURE || EVEN)
EVEN_SURE = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
SOFT = [2 * SURE_EVEN / 3, (0 + SURE_EVEN + EVEN_SURE) / 3]


@pytest.mark.parametrize(("weights", "expected"), [
    ("mean_plus_last", [1 / 3, 1 / 3, 4 / 3]), ("mean", [1 / 3] * 3), ("index", [1 / 6, 2 / 6, 3 / 6]),
    ("coefficient", [0.05, 0.05, 1.0]),
])  # fmt: skip
@pytest.mark.parametrize("soft", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("train_last", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_losses_by_hand(
    weights: str, expected: list[float], soft: float, train_last: bool, checkpointing: bool
) -> None:
    assert exit_weights((1, 2, 3), weights, 0.05) == pytest.approx(expected)  # type: ignore[arg-type]
    model, hidden = _by_hand()
    config = ExitLossConfig(weights=weights, coefficient=0.05, soft=soft)  # type: ignore[arg-type]
    losses = exit_losses(model, hidden, LABELS, config, train_last=train_last, checkpointing=checkpointing)
    assert [float(each) for each in losses.hard] == pytest.approx(HARD)
    assert [float(each) for each in losses.soft] == (pytest.approx(SOFT) if soft else [])
    assert losses.correct is None
    mixed = [(1 - soft) * hard + soft * kl for hard, kl in zip(HARD, SOFT, strict=False)]
    total = sum(weight * loss for weight, loss in zip(expected, [*mixed, HARD[-1]], strict=True))
    assert losses.total.item() == pytest.approx(total - (0 if train_last else expected[-1] * HARD[-1]))
    losses.total.backward()
    assert hidden[0].grad is not None
    if not train_last:
        assert hidden[-1].grad is None
        return
    # The last exit learns from its labels alone, however much the others learn from it.
    slope = expected[-1] * torch.tensor([[0.25, -0.25], [0.25, -0.25], [-0.5, 0.5]]) / 3
    torch.testing.assert_close(hidden[-1].grad[LABELS >= 0], slope)


def test_without_gradients_everything_is_counted() -> None:
    model, hidden = _by_hand()
    with torch.no_grad():
        losses = exit_losses(model, hidden, LABELS, ExitLossConfig())
    assert [float(each) for each in losses.soft] == pytest.approx(SOFT)
    assert losses.correct is not None
    assert [int(each) for each in losses.correct] == [1, 1, 3]  # of equal logits the first is said
    assert losses.total.item() == pytest.approx(sum(HARD) / 3 + HARD[-1])


def test_no_label_no_loss() -> None:
    model, hidden = _by_hand()
    losses = exit_losses(model, hidden, torch.full_like(LABELS, IGNORED), ExitLossConfig(soft=0.5))
    losses.total.backward()
    assert losses.total.item() == 0
    assert all(float(h.grad.abs().max()) == 0 for h in hidden if h.grad is not None)
    assert hidden[-1].grad is not None


def test_an_exit_that_says_what_the_last_one_says_has_nothing_to_learn_from_it() -> None:
    model = trainable("pre_rms")
    torch.nn.init.eye_(model.decoder.adapters["3"].weight)  # type: ignore[arg-type]
    batch = batch_for(model)
    hidden = model(batch)
    hidden[2] = hidden[-1]
    losses = exit_losses(model, hidden, batch.target_labels, ExitLossConfig(soft=1.0))
    assert [float(each) > 1e-3 for each in losses.soft] == [True, True, False, True]
    assert float(losses.soft[2]) == pytest.approx(0, abs=1e-6)


def _backward(model: MultiExitModel, batch: PackedBatch, config: ExitLossConfig, **options: bool) -> ExitLosses:
    model.zero_grad(set_to_none=True)
    losses = exit_losses(model, model(batch), batch.target_labels, config, **options)
    losses.total.backward()
    return losses


def _gradients(model: MultiExitModel) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("variant", [*VARIANTS, "merged"])
def test_checkpointing_changes_no_gradient(variant: str) -> None:
    model = trainable(variant)
    batch, config = batch_for(model), ExitLossConfig(soft=0.5, stop_head_gradient=True)
    plain_losses = _backward(model, batch, config)
    plain = _gradients(model)
    assert torch.equal(_backward(model, batch, config, checkpointing=True).total, plain_losses.total)
    again = _gradients(model)
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("soft", [0.0, 0.5])
def test_logits_are_made_once_and_once_more_where_they_are_not_kept(
    checkpointing: bool, soft: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, made = trainable("pre_rms"), []
    plain = model.decoder.exit_logits
    monkeypatch.setattr(
        model.decoder, "exit_logits", lambda layer, *a, **k: made.append(layer) or plain(layer, *a, **k)
    )
    batch = batch_for(model)
    losses = exit_losses(
        model, model(batch), batch.target_labels, ExitLossConfig(soft=soft), checkpointing=checkpointing
    )
    assert sorted(made) == [1, 2, 3, 4, 5]
    losses.total.backward()
    assert sorted(made) == sorted([1, 2, 3, 4, 5] * (2 if checkpointing else 1))


@pytest.mark.parametrize("soft", [0.0, 0.5])
def test_the_shared_head_learns_from_the_last_exit_alone_where_asked(soft: float) -> None:
    model = trainable("wide_heads")  # a head of its own, with a bias
    batch = batch_for(model)
    _backward(model, batch, ExitLossConfig(weights="coefficient", coefficient=0.0))
    last_alone = _gradients(model)
    _backward(model, batch, ExitLossConfig(weights="coefficient", soft=soft, stop_head_gradient=True))
    stopped = _gradients(model)
    _backward(model, batch, ExitLossConfig(weights="coefficient", soft=soft))
    through = _gradients(model)
    for name in ("decoder.head.weight", "decoder.head.bias"):
        assert torch.equal(stopped[name], last_alone[name])
        assert not torch.allclose(through[name], last_alone[name])
    others = stopped.keys() - {"decoder.head.weight", "decoder.head.bias"}
    assert all(torch.equal(stopped[name], through[name]) for name in others)
    assert float(stopped["decoder.adapters.1.weight"].abs().max()) > 0


def test_what_the_last_exit_says_is_a_constant_for_the_others() -> None:
    model = trainable("pre_rms")
    _backward(model, batch_for(model), ExitLossConfig(soft=1.0), train_last=False)
    learned = _gradients(model)
    assert any(name.startswith("decoder.layers.3.") for name in learned)
    assert not any(name.startswith("decoder.layers.4.") for name in learned)


@pytest.mark.parametrize("kind", ["t5gemma2", "florence2", "blip"])
def test_converted_models_under_autocast(kind: str, tmp_path: Path) -> None:
    model = converted(kind, tmp_path)
    batch, config = batch_for(model), ExitLossConfig(soft=0.5, stop_head_gradient=True)
    exact = _backward(model, batch, config)
    hard = [float(each) for each in exact.hard]
    results = []
    for checkpointing in (False, True):
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            losses = exit_losses(model, model(batch), batch.target_labels, config, checkpointing=checkpointing)
        losses.total.backward()
        results.append(_gradients(model))
        assert losses.total.dtype == torch.float32
        assert [float(each) for each in losses.hard] == pytest.approx(hard, rel=0.05)
    plain, again = results
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)
