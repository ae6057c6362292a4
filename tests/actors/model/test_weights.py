"""Smaller weights: what they round, what they leave alone, and that the engine is as exact with them as without."""

import pytest
import torch
from torch import nn

from actors.engine.beam_engine import BeamEngine
from actors.engine.engine import Engine
from actors.engine.reference import generate
from actors.engine.request import FinishReason
from actors.model.linear import Bfloat16Linear, Int8Linear, SmallLinear, linear_part, weight_rows
from actors.model.weights import with_weights
from conf.schema import Gate, Weights
from tests.actors.engine.tiny import VARIANTS, config, requests, run, tiny_model

KINDS = {Weights.BF16: Bfloat16Linear, Weights.INT8: Int8Linear}


def layers(bias: bool = True) -> tuple[nn.Linear, Bfloat16Linear, Int8Linear, torch.Tensor]:
    torch.manual_seed(0)
    plain = nn.Linear(24, 40, bias=bias).requires_grad_(False)
    with torch.no_grad():
        plain.weight *= torch.logspace(-2, 2, 40)[:, None]  # outputs of very different size
    x = torch.randn(7, 24) * torch.logspace(-3, 3, 7)[:, None]
    return plain, Bfloat16Linear(plain.weight, plain.bias), Int8Linear(plain.weight, plain.bias), x


def test_int8_is_the_product_of_the_rounded_numbers() -> None:
    plain, _, small, x = layers()
    weight_scale, scale = plain.weight.abs().amax(1) / 127, x.abs().amax(1) / 127
    weight = (plain.weight / weight_scale[:, None]).round().double()
    expected = (x / scale[:, None]).round().double() @ weight.T * scale[:, None].double() * weight_scale.double()
    torch.testing.assert_close(small(x).double(), expected + plain.bias.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
def test_they_are_near_the_plain_layer_and_can_be_computed_in_part(bias: bool) -> None:
    plain, *small, x = layers(bias)
    size = plain.weight.norm(dim=1) * x.norm(dim=1)[:, None]
    for layer in small:
        assert ((layer(x) - plain(x)).abs() / size).max() < 0.02
        for outputs in (slice(13), slice(13, None)):
            for kind in (layer, plain):  # a part may be summed in another order: compare beside the terms' own size
                assert ((linear_part(kind, x, outputs) - kind(x)[:, outputs]).abs() / size[:, outputs]).max() < 1e-6
        chosen = torch.tensor([[3, 39], [0, 0]])
        error = weight_rows(layer, chosen).float() - weight_rows(plain, chosen)
        assert (error.abs().amax(-1) < 0.01 * plain.weight.abs().amax(1)[chosen]).all()
        assert torch.equal(layer(x[:, None])[:, 0], layer(x))


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    _, _, small, x = layers()
    assert torch.equal(torch.cat([small(row[None]) for row in x]), small(x))
    assert torch.equal(small(torch.zeros(2, 24)), small.bias.expand(2, -1))


@pytest.mark.parametrize("weights", KINDS)
def test_the_given_model_stays_as_it_is(weights: Weights) -> None:
    model = tiny_model("wide_heads", dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small = with_weights(model, weights)
    assert with_weights(model, Weights.FP32) is model
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(isinstance(module, SmallLinear) for module in model.modules())
    changed = {name.rpartition(".")[2] for name, m in small.decoder.named_modules() if isinstance(m, KINDS[weights])}
    assert changed == {"qkv", "self_out", "query", "cross_out", "expand", "contract", "head", "1", "2", "3", "4"}
    assert small.decoder.embedding.weight is model.decoder.embedding.weight
    assert small.encoder is model.encoder
    again = with_weights(small, weights)
    assert again.decoder.layers[0].qkv.weight_OD is small.decoder.layers[0].qkv.weight_OD  # type: ignore[union-attr]


@pytest.mark.parametrize("weights", KINDS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("cross", ["projected", "absorbed"])
def test_the_engine_equals_the_reference_on_the_same_weights(weights: Weights, variant: str, cross: str) -> None:
    """In doubles, so that a different order of sums cannot round an activation to another integer."""
    exits, thresholds, work = (1, 3, 5), (0.3, 0.35), requests(10, 2)
    settings = config(exits=exits, thresholds=thresholds, weights=weights, cross=cross)
    engine = Engine(tiny_model(variant), settings)
    done = run(engine, work)
    for request in work:
        trace = generate(engine.model, request, exit_layers=exits, thresholds=thresholds, gate=Gate.SOFTMAX_MAX,
                         max_new_tokens=min(16, request.max_new_tokens or 16))  # fmt: skip
        ended = [engine.model.config.eos_id] if done[request.request_id].finish_reason is FinishReason.EOS else []
        assert (*done[request.request_id].token_ids, *ended) == trace.step_ids
        assert done[request.request_id].exit_layers == trace.exit_layers


@pytest.mark.parametrize("weights", KINDS)
def test_beams_and_shortlists_take_them(weights: Weights) -> None:
    model, work = tiny_model(dtype=torch.float32), requests(6, 3)
    beams = config(schedule="full", thresholds=None, weights=weights, generation={"max_new_tokens": 8, "num_beams": 3})
    assert len(run(BeamEngine(model, beams), work)) == 6
    shortlist = config(exits=(1, 3, 5), thresholds=(0.4, 0.2), weights=weights, gate="shortlist")
    assert len(run(Engine(model, shortlist), work)) == 6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("num_rows", [1, 16, 17, 40])
def test_int8_on_cuda_is_that_of_the_cpu(num_rows: int) -> None:
    _, _, small, x = layers()
    x = x[torch.arange(num_rows) % len(x)]
    on_gpu = Int8Linear(small.rows(torch.arange(40)).cuda(), small.bias.cuda())  # type: ignore[union-attr]
    torch.testing.assert_close(on_gpu(x.cuda()).cpu(), small(x))
