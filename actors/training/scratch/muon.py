"""Muon: momentum whose every matrix is brought to equal singular values before it is applied.

K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024). torch.optim.Muon orthogonalises in
bfloat16, which CPUs without native bfloat16 compute twenty times slower than float32; this one does so only where it
is native, and takes all matrices of one shape at a time.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

QUINTIC = (3.4445, -4.7750, 2.0315)  # drives singular values into 0.7 .. 1.2 within five rounds
ROUNDS = 5


def native_bfloat16(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 matrices faster than float32 ones."""
    if device.type == "cpu":
        return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()) and bool(
            torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        )
    return True


def orthogonalise(matrices: Tensor) -> Tensor:
    """Matrices [N, R, C] -> the nearest with singular values close to 1, by Newton-Schulz iteration."""
    a, b, c = QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.to(torch.bfloat16) if native_bfloat16(matrices.device) else matrices
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum on orthogonalised matrices; weight decay is decoupled.

    A convolution counts as a matrix of its output channels by all the rest.
    `parts`: how many matrices a parameter of the group holds, stacked by rows (3 for a fused query-key-value weight).
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "parts": 1})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        assert closure is None
        by_shape: defaultdict[tuple[int, ...], list[tuple[Tensor, Tensor, float]]] = defaultdict(list)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(state["momentum"], group["momentum"])
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                for weight, part in zip(parameter.chunk(group["parts"]), update.chunk(group["parts"]), strict=True):
                    by_shape[tuple(part.flatten(1).shape)].append((weight, part, group["lr"]))
        for (rows, columns), entries in by_shape.items():
            updates = orthogonalise(torch.stack([part.flatten(1) for _, part, _ in entries]))
            scale = max(1.0, rows / columns) ** 0.5
            for (weight, _, lr), update in zip(entries, updates, strict=True):
                weight.add_(update.view(weight.shape), alpha=-lr * scale)
