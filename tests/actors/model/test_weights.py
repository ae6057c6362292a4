"""Smaller weights: what they round, what they leave alone, and that the engine is as exact with them as without."""

import pytest
import torch
from torch import nn

from actors.engine.beam.beam_engine import BeamEngine
from actors.engine.engine import Engine
from actors.engine.oracles.reference import generate
from actors.engine.request import FinishReason
from actors.model.linear import (
    Bfloat16Linear,
    Int8Linear,
    PackedLinear,
    SmallLinear,
    can_pack,
    linear_part,
    linear_relu,
    weight_rows,
)
from actors.model.weights import with_weights
from conf.engine import Gate, Weights
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_packed_layers_are_the_plain_ones(dtype: torch.dtype, bias: bool) -> None:
    """Any number of rows: those that are filled up, and a single one, take other ways."""
    plain = layers(bias)[0].to(dtype)
    if not can_pack(plain.weight):
        pytest.skip("no oneDNN here")
    packed = PackedLinear(plain)
    assert packed.weight is plain.weight
    assert [*packed.state_dict()] == [*plain.state_dict()]
    with torch.inference_mode():
        for num_rows in (*range(1, 40), 77, 130, 1000):
            x = torch.randn(num_rows, 24, dtype=dtype)
            size = (plain.weight.float().norm(dim=1) * x.float().norm(dim=1)[:, None]).clamp(min=1)
            error = (packed(x).float() - plain(x).float()).abs() / size
            assert error.max() < 4 * torch.finfo(dtype).eps
            assert torch.equal(packed(x[:, None])[:, 0], packed(x)) or num_rows == 1
            assert torch.equal(linear_relu(packed, x), packed(x).relu()) or num_rows == 1
        assert packed(x.expand(3, 2, -1, -1)).shape == (3, 2, 1000, 40)


def test_all_of_a_model_is_packed_where_it_can_be() -> None:
    single, double = tiny_model("wide_heads", dtype=torch.float32), tiny_model("wide_heads")
    packed = with_weights(single, Weights.FP32)
    linears = [module for module in packed.modules() if isinstance(module, nn.Linear)]
    assert {type(module) for module in linears} == {PackedLinear if can_pack(linears[0].weight) else nn.Linear}
    assert not any(isinstance(module, PackedLinear) for module in single.modules())
    assert not any(isinstance(module, PackedLinear) for module in with_weights(double, Weights.FP32).modules())
    again = with_weights(packed, Weights.FP32)
    assert again.decoder.layers[0].qkv is packed.decoder.layers[0].qkv


class OwnSequence(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)  # type: ignore[no-any-return]


def test_batch_norms_become_part_of_their_convolutions() -> None:
    torch.manual_seed(0)
    model = tiny_model(dtype=torch.float32)
    model.encoder.tower = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    model.encoder.own = OwnSequence(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    norm = model.encoder.tower[1]
    for statistic in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        nn.init.uniform_(statistic, 0.5, 2)  # type: ignore[arg-type]
    model = model.eval().requires_grad_(False)
    folded = with_weights(model, Weights.FP32)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.encoder.tower.modules())
    assert isinstance(model.encoder.tower[1], nn.BatchNorm2d)
    x = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(folded.encoder.tower(x), model.encoder.tower(x))
    assert torch.equal(folded.encoder.own(x), model.encoder.own(x))  # a library's class may run its stages otherwise


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    _, _, small, x = layers()
    assert torch.equal(torch.cat([small(row[None]) for row in x]), small(x))
    assert torch.equal(small(torch.zeros(2, 24)), small.bias.expand(2, -1))


@pytest.mark.parametrize("weights", KINDS)
def test_the_given_model_stays_as_it_is(weights: Weights) -> None:
    model = tiny_model("wide_heads", dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small = with_weights(model, weights)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(isinstance(module, SmallLinear) for module in model.modules())
    changed = {name.rpartition(".")[2] for name, m in small.decoder.named_modules() if isinstance(m, KINDS[weights])}
    assert changed == {"qkv", "self_out", "query", "cross_out", "expand", "contract", "head", "1", "2", "3", "4"}
    assert small.decoder.embedding.weight is model.decoder.embedding.weight
    assert small.encoder.layers[0].qkv.weight is model.encoder.layers[0].qkv.weight
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
