"""A model as the engine runs it: matrices packed for the processor, batch norms folded into their convolutions, and
the decoder's matrices smaller where that is asked for.

`engine.weights` changes products with the decoder's matrices alone (attention projections, feed-forward, adapters,
heads); norms, softmax, attention, embeddings and caches stay in the model's own precision, and so does `cross_kv_proj`,
whose halves the engine multiplies with in another order, and whose products are kept.
"""

import copy
from collections.abc import Callable

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from actors.model.linear import CUDA_MULTIPLE, Bfloat16Linear, Int8Linear, PackedLinear, can_pack
from actors.model.model import MultiExitModel
from conf.engine import Weights

_LEFT_ALONE = ("cross_kv_proj", "gates", "absolute_bias")


def with_weights(model: MultiExitModel, weights: Weights) -> MultiExitModel:
    """A copy of the model for inference; the given one stays as it is and shares all that is not changed."""
    ready = copy.copy(model)
    ready.__dict__["_modules"] = dict(model._modules)
    ready.encoder = _converted(model.encoder, _pack)
    ready.decoder = _converted(model.decoder, _SMALLER.get(weights, _pack))
    return ready


def _pack(linear: nn.Linear) -> nn.Module:
    # Subclasses (a library's own, those that are packed already) know best.
    return PackedLinear(linear) if type(linear) is nn.Linear and can_pack(linear.weight) else linear


def _to_int8(linear: nn.Linear) -> nn.Module:
    fits = not linear.weight.is_cuda or all(size % CUDA_MULTIPLE == 0 for size in linear.weight.shape)
    return Int8Linear(linear.weight, linear.bias) if fits else linear


def _to_bfloat16(linear: nn.Linear) -> nn.Module:
    return Bfloat16Linear(linear.weight, linear.bias)


_SMALLER: dict[Weights, Callable[[nn.Linear], nn.Module]] = {Weights.BF16: _to_bfloat16, Weights.INT8: _to_int8}


def _folded(stages: nn.Sequential) -> dict[str, nn.Module]:
    """Return its stages by name, a batch norm after a convolution being part of the convolution."""
    folded: dict[str, nn.Module] = {}
    last = ""
    for name, stage in stages.named_children():
        before = folded.get(last)
        if isinstance(stage, nn.BatchNorm2d) and type(before) is nn.Conv2d and not stage.training:
            folded[last] = fuse_conv_bn_eval(before, stage).requires_grad_(False)
            stage = nn.Identity()
        folded[name], last = stage, name
    return folded


def _converted(module: nn.Module, convert: Callable[[nn.Linear], nn.Module]) -> nn.Module:
    """Return a copy of the module tree that holds the same tensors, but for its linear layers."""
    if isinstance(module, nn.Linear):
        return convert(module)
    children = _folded(module) if type(module) is nn.Sequential else module._modules
    clone = copy.copy(module)
    clone.__dict__["_modules"] = {
        name: child if child is None else _converted(child, _pack if name in _LEFT_ALONE else convert)
        for name, child in children.items()
    }
    return clone
