"""A model with smaller weights in the decoder's matrices (engine.weights).

Only products with a weight matrix change (attention projections, feed-forward, adapters, heads); norms, softmax,
attention, embeddings and caches stay in the model's own precision, and so does `cross_kv_proj`, whose halves the engine
multiplies with in another order, and whose products are kept.
"""

import copy

from torch import nn

from actors.model.linear import CUDA_MULTIPLE, Bfloat16Linear, Int8Linear
from actors.model.model import MultiExitModel
from conf.schema import Weights

_LEFT_ALONE = ("cross_kv_proj", "gates", "absolute_bias")


def with_weights(model: MultiExitModel, weights: Weights) -> MultiExitModel:
    """The model with smaller decoder weights, or itself; the given one stays as it is and shares all else with it."""
    if weights is Weights.FP32:
        return model
    small = copy.copy(model)
    small.__dict__["_modules"] = dict(model._modules)
    small.decoder = _converted(model.decoder, Bfloat16Linear if weights is Weights.BF16 else Int8Linear)
    return small


def _converted(module: nn.Module, kind: type[Bfloat16Linear] | type[Int8Linear]) -> nn.Module:
    """A copy of the module tree that holds the same tensors, but for its linear layers."""
    if isinstance(module, nn.Linear):
        fits = not module.weight.is_cuda or all(size % CUDA_MULTIPLE == 0 for size in module.weight.shape)
        return kind(module.weight, module.bias) if fits or kind is Bfloat16Linear else module
    clone = copy.copy(module)
    clone.__dict__["_modules"] = {
        name: child if child is None or name in _LEFT_ALONE else _converted(child, kind)
        for name, child in module._modules.items()
    }
    return clone
