"""Low-rank updates of matrices that stand still: LoRA (arXiv 2106.09685, section 4.1), as parametrizations of torch.

A fused matrix (q, k and v side by side, or gate and value) is several of the original ones, and each gets factors of
its own, so that a rank means here what it means for the model as it was published.

Shape suffixes: P parts of a fused matrix, R rank, D inputs, O outputs.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from actors.model.blocks import FeedForward
from actors.model.decoder import MultiExitDecoder
from actors.training.fused import attention_parts


class LowRankUpdate(nn.Module):
    """Adds `alpha / rank` times B A to a matrix; A is drawn so that A x is about as large as x, B is zero at first."""

    def __init__(self, weight_OD: Tensor, num_parts: int, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        num_outputs, num_inputs = weight_OD.shape
        noise_PRD = torch.randn(num_parts, rank, num_inputs, generator=generator) * num_inputs**-0.5
        self.a_PRD = nn.Parameter(noise_PRD.to(weight_OD))
        self.b_POR = nn.Parameter(weight_OD.new_zeros(num_parts, num_outputs // num_parts, rank))
        self.scale = alpha / rank

    def forward(self, weight_OD: Tensor) -> Tensor:
        """Return the matrix with its update; never in autocast's type, in which small updates would be lost."""
        with torch.autocast(weight_OD.device.type, enabled=False):
            return weight_OD + self.scale * (self.b_POR @ self.a_PRD).flatten(0, 1)


def add_low_rank(module: nn.Module, rank: int, alpha: float, seed: int) -> list[nn.Parameter]:
    """Freeze the matrix of every linear layer in the module, in place, and return the factors that train instead.

    For a decoder's layers or an encoder: what is read by token, the head and the exits' own parts are no places for
    it. Outputs are bit for bit what they were until a factor moves. Names in a state dict depend on the module alone.
    """
    assert not any(isinstance(child, MultiExitDecoder) for child in module.modules()), "its layers alone"
    gates = {id(child.expand) for child in module.modules() if isinstance(child, FeedForward) and child.gated}
    generator = torch.Generator().manual_seed(seed)
    factors: list[nn.Parameter] = []
    for name, linear in list(module.named_modules()):
        if isinstance(linear, nn.Linear):
            num_parts = 2 if id(linear) in gates else attention_parts(name.rpartition(".")[2])
            linear.weight.requires_grad_(False)
            update = LowRankUpdate(linear.weight, num_parts, rank, alpha, generator)
            parametrize.register_parametrization(linear, "weight", update)
            factors += update.parameters()
    return factors


def merged_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict that the plain model would have, every update added to its matrix."""
    with torch.no_grad():
        merged = {
            f"{name}.weight": module.weight.detach()
            for name, module in model.named_modules()
            if parametrize.is_parametrized(module, "weight")
        }
    plain = {name: tensor for name, tensor in model.state_dict().items() if ".parametrizations." not in name}
    return plain | merged
