"""Layer dropout and checkpointing around the layers of a teacher-forced pass."""

import itertools
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from actors.model.model import MultiExitModel, PackedBatch
from actors.model.run_layer import RunLayer
from actors.training.pretrained.run_layer import checkpointed, make_run_layer, skip_rates
from conf.decoder import RelativeBias
from tests.actors.engine.tiny import VARIANTS
from tests.actors.training.pretrained.batches import batch_for, converted, trainable

LAYERS = 5
OWN_BIASES = {"positions": "none", "relative_bias": RelativeBias(num_buckets=8), "relative_bias_per_layer": True}
EVERY = [*VARIANTS, "merged", "own_biases"]


@pytest.fixture(autouse=True)
def _variant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, "own_biases", OWN_BIASES)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _gradients(model: MultiExitModel, batch: PackedBatch, run_layer: RunLayer | None) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    hidden = model(batch, run_layer=run_layer)
    torch.stack([h.float().square().mean() for h in hidden]).sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_rates_grow_exponentially_from_none_at_the_first_layer() -> None:
    rates = skip_rates(LAYERS, 0.2)
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(0.2)
    steps = [later + 0.2 for later in rates]  # rates + dropout: a geometric series
    assert [after / before for before, after in itertools.pairwise(steps)] == pytest.approx([2**0.25] * 4)
    assert skip_rates(1, 0.2) == [0.0]


def test_nothing_to_do_is_no_function() -> None:
    assert make_run_layer(LAYERS, dropout=0.0, checkpointing=False, generator=None) is None


@pytest.mark.parametrize("variant", EVERY)
def test_every_layer_goes_through_the_function_in_order(variant: str) -> None:
    model, seen = trainable(variant), []
    batch = batch_for(model)

    def run_layer(index, layer, h):  # type: ignore[no-untyped-def]
        seen.append((index, h))
        return h if index == 1 else layer(h)

    plain, without = model(batch), model(batch, run_layer=run_layer)
    assert [index for index, _ in seen] == list(range(LAYERS))
    assert torch.equal(without[0], plain[0])
    assert without[1] is without[0]  # what the function returns is what the pass goes on with
    assert all(given is before for (_, given), before in zip(seen[1:], without, strict=False))
    assert not torch.equal(without[2], plain[2])


@pytest.mark.parametrize("variant", ["pre_rms", "merged"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_last_layer_that_is_always_skipped_leaves_the_one_before(variant: str, checkpointing: bool) -> None:
    model = trainable(variant)
    run_layer = make_run_layer(LAYERS, dropout=1.0, checkpointing=checkpointing, generator=_generator())
    hidden = model(batch_for(model), run_layer=run_layer)
    assert torch.equal(hidden[-1], hidden[-2])
    assert not torch.equal(hidden[0], hidden[1])
    hidden[-1].square().sum().backward()
    assert all(float(p.grad.abs().max()) == 0 for p in model.decoder.layers[-1].parameters() if p.grad is not None)
    assert any(float(p.grad.abs().max()) > 0 for p in model.decoder.layers[0].parameters() if p.grad is not None)


def test_rows_skip_each_for_itself_and_as_often_as_asked() -> None:
    model = trainable("pre_rms")
    batch = batch_for(model, num_rows=400, target_tokens=2)
    run_layer = make_run_layer(LAYERS, dropout=0.5, checkpointing=False, generator=_generator())
    with torch.no_grad():
        hidden = model(batch, run_layer=run_layer)
    kept = [(before == after).flatten(1) for before, after in itertools.pairwise(hidden)]
    assert all(torch.equal(same.any(1), same.all(1)) for same in kept)  # a row skips as a whole
    shares = [float(same.all(1).float().mean()) for same in kept]
    assert shares == pytest.approx(skip_rates(LAYERS, 0.5)[1:], abs=0.06)


def test_the_generator_alone_says_who_skips() -> None:
    model = trainable("pre_rms")
    batch = batch_for(model, num_rows=8)

    def last(generator: torch.Generator, *, checkpointing: bool = False) -> Tensor:
        run_layer = make_run_layer(LAYERS, dropout=0.6, checkpointing=checkpointing, generator=generator)
        return model(batch, run_layer=run_layer)[-1].detach()

    generator = _generator(3)
    first = last(generator)
    state = generator.get_state()
    second = last(generator)
    torch.manual_seed(77)  # the global state has no part in it
    assert torch.equal(first, last(_generator(3)))
    assert torch.equal(first, last(_generator(3), checkpointing=True))
    resumed = torch.Generator()
    resumed.set_state(state)
    assert torch.equal(second, last(resumed))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("variant", EVERY)
def test_checkpointing_changes_no_gradient(variant: str, dropout: float) -> None:
    model = trainable(variant)
    batch = batch_for(model)
    both = []
    for checkpointing in (False, True):
        run_layer = make_run_layer(LAYERS, dropout=dropout, checkpointing=checkpointing, generator=_generator())
        both.append(_gradients(model, batch, run_layer))
    plain, again = both
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)


@pytest.mark.parametrize("kind", ["t5gemma2", "pix2struct", "udop"])
def test_checkpointing_a_converted_model_under_autocast(kind: str, tmp_path: Path) -> None:
    model = converted(kind, tmp_path)
    decoder, states = model.decoder, torch.randn(3, 7, model.config.decoder.d_cross, generator=_generator())
    states.requires_grad_(True)
    batch, segments = batch_for(model), torch.zeros(3, 7, dtype=torch.long)

    def gradients(run_layer: RunLayer | None) -> list[Tensor]:
        decoder.zero_grad(set_to_none=True)
        states.grad = None
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.decode_packed(batch, states, segments, run_layer=run_layer)
            loss = hidden[-1].float().square().mean()
        loss.backward()
        return [states.grad, *(p.grad for p in decoder.layers.parameters() if p.grad is not None)]

    run_layer = make_run_layer(len(decoder.layers), dropout=0.0, checkpointing=True, generator=None)
    plain, again = gradients(None), gradients(run_layer)
    assert len(plain) == len(again) > len(decoder.layers)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


@pytest.mark.parametrize("kind", ["t5gemma2", "florence2", "donut"])
def test_an_encoder_as_a_whole_can_be_checkpointed(kind: str, tmp_path: Path) -> None:
    model = converted(kind, tmp_path)
    batch, both = batch_for(model), []
    for encode in (model.encode_packed, partial(checkpointed, model.encode_packed)):
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            _, states, segments = encode(batch)
            loss = model.decode_packed(batch, states, segments)[-1].float().square().mean()
        loss.backward()
        both.append({name: p.grad for name, p in model.encoder.named_parameters() if p.grad is not None})
    plain, again = both
    assert plain.keys() == again.keys()
    assert len(plain) > 20
    assert all(torch.equal(plain[name], again[name]) for name in plain)


def test_a_checkpointed_function_is_called_again_in_the_backward_pass() -> None:
    calls = []

    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(1)
        return x.exp().exp(), x.detach()

    x = torch.ones(2, requires_grad=True)
    y, constant = checkpointed(function, x)
    assert len(calls) == 1
    y.sum().backward()
    assert len(calls) == 2
    assert not constant.requires_grad
    torch.testing.assert_close(x.grad, torch.exp(torch.exp(torch.tensor(1.0)) + 1).expand(2))
