"""Which of their tensors make one of ours, and how to go either way without changing a number.

One of our tensors is the concatenation along dimension 0 of one or more of theirs (fused projections).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from conf.errors import UserError

NameMap = dict[str, tuple[str, ...]]  # ours -> theirs, in the order they are stacked


def fused(ours: str, prefix: str, parts: Sequence[str], kinds: Sequence[str] = ("weight",)) -> NameMap:
    """`ours` <- `prefix` + each of `parts`, for weights and, where there are any, biases."""
    return {f"{ours}.{kind}": tuple(f"{prefix}{part}.{kind}" for part in parts) for kind in kinds}


def to_ours(names: NameMap, theirs: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under our names; UserError names the first one that is missing or of another shape."""
    result = {}
    for ours, sources in names.items():
        if missing := [name for name in sources if name not in theirs]:
            raise UserError(f"the source weights lack the tensor {missing[0]!r}")
        tensor = theirs[sources[0]] if len(sources) == 1 else torch.cat([theirs[name] for name in sources])
        shape = expected[ours].shape
        if tensor.shape != shape and tensor.squeeze(0).shape != shape:  # [1, V] logit biases are [V] here
            raise UserError(
                f"source tensor {sources[0]!r} has shape {list(theirs[sources[0]].shape)}, which gives "
                f"{list(tensor.shape)} where the configuration says {list(shape)}"
            )
        result[ours] = tensor.reshape(shape)
    return result


def to_theirs(names: NameMap, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under their names; the inverse of `to_ours`."""
    result = {}
    for name, sources in names.items():
        for source, tensor in zip(sources, ours[name].chunk(len(sources)), strict=True):
            result[source] = tensor[None] if source == "final_logits_bias" else tensor
    return result
