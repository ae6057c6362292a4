"""Linear layers for inference: packed for the processor, in bfloat16, or in int8 with a scale per output.

Packed layers are oneDNN's, whose operators torch's own compiler calls for them: the same product, in an order of
weights that suits the processor. `deed bench engine` measures both.

int8 rounds activations too, with a scale per row, so that the product is one of integers: what a row gets does not
depend on the rows beside it.

Shape suffixes: N rows, D inputs, O outputs, K chosen outputs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_INT8_MAX = 127
_SMALL = 2**18  # weights of a matrix that a single row is multiplied with as fast unpacked
_CUDA_ROWS, CUDA_MULTIPLE = 17, 8  # torch._int_mm wants at least so many rows, and widths that are such multiples


def can_pack(weight_OD: Tensor) -> bool:
    """Return whether oneDNN has a packed product for such weights here."""
    return (
        weight_OD.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and (
            weight_OD.dtype is torch.float32
            or (weight_OD.dtype is torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))
        )
    )


def _packed(weight_OD: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight_OD.detach())
    return packed


_LARGE, _MOST_LARGE = 256, 64


def filled_rows(num_rows: int) -> int:
    """Return the number of rows that oneDNN is given for `num_rows`.

    It compiles a kernel for each number (half a millisecond, two thirds of a megabyte), so small numbers are filled up
    to one of eight per power of two.
    """
    return num_rows if num_rows >= _LARGE else _one_of_eight(num_rows)


def _one_of_eight(num_rows: int) -> int:
    """Round up to one of eight numbers per power of two."""
    return num_rows + -num_rows % (1 << max(0, num_rows.bit_length() - 4))


class _LargeNumbers:
    """Of large numbers of rows, which encoders have few of, the first are taken as they are."""

    def __init__(self) -> None:
        self._exact: set[int] = set()

    def filled(self, num_rows: int) -> int:
        if num_rows in self._exact or len(self._exact) < _MOST_LARGE:
            self._exact.add(num_rows)
            return num_rows
        return _one_of_eight(num_rows)


_LARGE_NUMBERS = _LargeNumbers()


def _packed_product(x: Tensor, packed_OD: Tensor, bias_O: Tensor | None, then: str = "none") -> Tensor:
    """x [..., D] -> [..., O], passed through `then` ("none" or "relu")."""
    x_ND = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    num_rows = x_ND.shape[0]
    filled = filled_rows(num_rows) if num_rows < _LARGE else _LARGE_NUMBERS.filled(num_rows)
    missing = filled - num_rows
    if missing:
        x_ND = F.pad(x_ND, (0, 0, 0, missing))
    y_NO: Tensor = torch.ops.mkldnn._linear_pointwise.default(x_ND, packed_OD, bias_O, then, [], "")
    if missing:
        y_NO = y_NO[:num_rows]
    return y_NO if x.dim() == 2 else y_NO.view(*x.shape[:-1], -1)


class PackedLinear(nn.Linear):
    """The given layer, its parameters shared, with a packed copy of its weights. For inference alone."""

    def __init__(self, plain: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.weight, self.bias = plain.weight, plain.bias
        self._packed_OD = _packed(plain.weight)
        self._is_small = plain.weight.numel() < _SMALL

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D] -> [..., O]."""
        if self._is_small and x.shape[0] == 1 == x.dim() - 1:
            return F.linear(x, self.weight, self.bias)
        return _packed_product(x, self._packed_OD, self.bias)

    def relu(self, x: Tensor) -> Tensor:
        """Return the positive part of `forward`, in the same pass over memory."""
        return _packed_product(x, self._packed_OD, self.bias, "relu")


def is_packed(layer: nn.Module) -> bool:
    """Return whether its products are quicker with `filled_rows`."""
    return isinstance(layer, PackedLinear) or (isinstance(layer, Bfloat16Linear) and layer.is_packed)


def linear_relu(layer: nn.Module, x: Tensor) -> Tensor:
    """x [..., D] -> the positive part [..., O] of what a linear layer of any kind makes of it."""
    return layer.relu(x) if isinstance(layer, PackedLinear) else F.relu(layer(x))


class SmallLinear(nn.Module):
    """A linear layer whose outputs can also be computed in part, as blocks.py and decoder.py ask."""

    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D] -> [..., O]."""
        return self.part(x, slice(None))

    def part(self, x: Tensor, outputs: slice) -> Tensor:
        """x [..., D] -> the chosen outputs [..., K]."""
        raise NotImplementedError

    def rows(self, outputs: Tensor) -> Tensor:
        """Return the weights of the chosen outputs [..., D]."""
        raise NotImplementedError

    def _plus_bias(self, y: Tensor, outputs: slice) -> Tensor:
        return y if self.bias is None else y + self.bias[outputs]


class Bfloat16Linear(SmallLinear):
    """Weights and activations in bfloat16, the result as wide as the input was."""

    def __init__(self, weight_OD: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight_OD, self.bias = weight_OD.detach().to(torch.bfloat16), bias
        self._packed_OD = _packed(self.weight_OD) if can_pack(self.weight_OD) else None

    @property
    def is_packed(self) -> bool:
        return self._packed_OD is not None

    def part(self, x: Tensor, outputs: slice) -> Tensor:
        if self._packed_OD is not None and outputs == slice(None):
            y = _packed_product(x.to(torch.bfloat16), self._packed_OD, None)
        else:
            y = F.linear(x.to(torch.bfloat16), self.weight_OD[outputs])
        return self._plus_bias(y.to(x.dtype), outputs)

    def rows(self, outputs: Tensor) -> Tensor:
        return self.weight_OD[outputs]


class Int8Linear(SmallLinear):
    """Symmetric int8: weights with a scale per output, activations with a scale per row."""

    def __init__(self, weight_OD: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        weight_OD = weight_OD.detach().float()
        scale_O = _scale(weight_OD)
        self.weight_OD, self.scale_O, self.bias = _rounded(weight_OD, scale_O), scale_O, bias

    def part(self, x: Tensor, outputs: slice) -> Tensor:
        x_ND = x.reshape(-1, x.shape[-1]).float()
        scale_N = _scale(x_ND)
        y_NK = _int8_product(_rounded(x_ND, scale_N), self.weight_OD[outputs]) * scale_N[:, None]
        y_NK = (y_NK * self.scale_O[outputs]).to(x.dtype)
        return self._plus_bias(y_NK.view(*x.shape[:-1], -1), outputs)

    def rows(self, outputs: Tensor) -> Tensor:
        return self.weight_OD[outputs] * self.scale_O[outputs, None]


def _scale(x_ND: Tensor) -> Tensor:
    return x_ND.abs().amax(-1).clamp_(min=1e-12) / _INT8_MAX


def _rounded(x_ND: Tensor, scale_N: Tensor) -> Tensor:
    return (x_ND / scale_N[:, None]).round_().to(torch.int8)


def _int8_product(x_ND: Tensor, weight_OD: Tensor) -> Tensor:
    """Products of int8 matrices [N, D] and [O, D] -> int32 [N, O]."""
    num_rows = x_ND.shape[0]
    if x_ND.is_cuda and num_rows < _CUDA_ROWS:
        x_ND = F.pad(x_ND, (0, 0, 0, _CUDA_ROWS - num_rows))
    return torch._int_mm(x_ND, weight_OD.t())[:num_rows]


def linear_part(layer: nn.Module, x: Tensor, outputs: slice) -> Tensor:
    """x [..., D] -> the chosen outputs [..., K] of a linear layer of any kind."""
    if isinstance(layer, SmallLinear):
        return layer.part(x, outputs)
    assert isinstance(layer, nn.Linear)
    return F.linear(x, layer.weight[outputs], None if layer.bias is None else layer.bias[outputs])


def weight_rows(layer: nn.Module, outputs: Tensor) -> Tensor:
    """Return the weights [..., D] of the chosen outputs of a linear layer of any kind."""
    if isinstance(layer, SmallLinear):
        return layer.rows(outputs)
    assert isinstance(layer, nn.Linear)
    return layer.weight[outputs]
