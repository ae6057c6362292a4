"""What this machine can do at a model's shapes: the ceiling that every variant is held against.

One decoder layer is its matrix products and one attention over the encoder states, with nothing around them. All
layers run in turn, as decoding runs them, so that weights come from where they come from there.

Shape suffixes: M rows, D width, H heads of keys, E head width, C encoder positions.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from actors.engine.encoding import collate
from actors.model.blocks import DecoderLayer
from actors.model.checkpoint import load_checkpoint
from actors.model.merged_blocks import MergedDecoderLayer
from actors.model.weights import with_weights
from conf.bench import BenchConfig, BenchModel, Distribution
from conf.engine import Weights
from jobs.bench.engine.bound import Costs, Rates, fit_line
from jobs.bench.engine.cells import Cell
from jobs.bench.engine.models import make_model
from jobs.bench.engine.places import checkpoint_of
from jobs.bench.engine.workload import make_requests

_ROWS = (1, 8, 32, 128)
_REPEATS, _LEAST_S = 3, 0.05


class Machine:
    """Measures the rates of one model."""

    def __init__(self, config: BenchConfig, model: BenchModel) -> None:
        self._config, self._model = config, model

    def rates(self) -> Rates:
        return measure_rates(self._config, self._model, self._config.engine.tuning.encode_batch)


@torch.inference_mode()
def measure_rates(config: BenchConfig, model: BenchModel, encode_batch: int) -> Rates:
    """Make the model if need be, and time its parts alone."""
    make_model(config, model)
    dtype = getattr(torch, config.dtype)
    checkpoint = load_checkpoint(checkpoint_of(config, model), dtype=dtype)
    ready = with_weights(checkpoint.model, Weights.FP32)
    decoder = ready.decoder
    layers, plain = list(ready.decoder.layers), list(checkpoint.model.decoder.layers)
    shape, context = checkpoint.config.decoder, checkpoint.model.max_context
    layer_s, plain_s, head_s = [], [], []
    for rows in _ROWS:
        h_MD = torch.randn(rows, shape.d_model, dtype=dtype)
        k_MHCE = torch.randn(rows, shape.kv_width // shape.d_head // 2, context, shape.d_head, dtype=dtype)
        layer_s.append(seconds_of(lambda h=h_MD, k=k_MHCE: _all_layers(layers, h, k)) / len(layers))  # type: ignore[misc]
        plain_s.append(seconds_of(lambda h=h_MD, k=k_MHCE: _all_layers(plain, h, k)) / len(layers))  # type: ignore[misc]
        head_s.append(seconds_of(lambda h=h_MD: decoder.exit_logits(shape.num_layers, h)))  # type: ignore[misc]
    products = [p for layer in layers[:1] for n, p in layer.named_parameters() if p.dim() == 2 and "cross_kv" not in n]
    weights, item = sum(p.numel() for p in products), products[0].element_size()
    layer_floor_s, layer_slope_s = fit_line(list(zip(_ROWS, layer_s, strict=True)))
    head_floor_s, head_slope_s = fit_line(list(zip(_ROWS, head_s, strict=True)))
    cell = Cell(model, Distribution.INDEPENDENT, "run", encode_batch, 1, (), 1, encode_batch)
    batch = collate(make_requests(config, cell, checkpoint), checkpoint.config.pad_id)
    return Rates(
        rows=_ROWS,
        layer_gflops=tuple(2e-9 * weights * rows / s for rows, s in zip(_ROWS, layer_s, strict=True)),
        packing_gain=tuple(p / s for p, s in zip(plain_s, layer_s, strict=True)),
        weights_gb_per_s=1e-9 * weights * item / layer_s[0],
        costs=Costs(
            encode_s=seconds_of(lambda: ready.encode(*batch)) / encode_batch,
            layer_floor_s=layer_floor_s, layer_slope_s=layer_slope_s,
            head_floor_s=head_floor_s, head_slope_s=head_slope_s,
        ),
        weights_sha256=checkpoint.sha256,
    )  # fmt: skip


def _all_layers(layers: Sequence[nn.Module], h_MD: torch.Tensor, k_MHCE: torch.Tensor) -> None:
    for layer in layers:
        if isinstance(layer, MergedDecoderLayer):
            layer.kv(h_MD)
            q_MHXE = layer.query(h_MD).view(len(h_MD), k_MHCE.shape[1], -1, layer.d_head)
            layer.out(F.scaled_dot_product_attention(q_MHXE, k_MHCE, k_MHCE).flatten(1))
        else:
            assert isinstance(layer, DecoderLayer)
            qkv = layer.qkv(h_MD)
            layer.self_out(qkv[:, : qkv.shape[-1] // 3])
            q_MH1E = layer.heads(layer.query(h_MD))[:, :, None]
            layer.cross_out(F.scaled_dot_product_attention(q_MH1E, k_MHCE, k_MHCE).flatten(1))
        layer.ffn.contract(layer.ffn.expand(h_MD)[:, : layer.ffn.contract.in_features])


def seconds_of(call: Callable[[], Any]) -> float:
    """Return the median seconds of a call, each measurement long enough for the clock; slow calls are measured once."""
    call()
    first_s = _timed(call, 1)
    if first_s > 1:
        return first_s
    count = max(1, round(_LEAST_S / max(first_s, 1e-9)))
    return statistics.median(_timed(call, count) for _ in range(_REPEATS))


def _timed(call: Callable[[], Any], count: int) -> float:
    start_s = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start_s) / count
