"""What training does with a decoder layer beside calling it: some rows skip it, and memory is saved.

Shape suffixes: B rows, T positions, D width.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from actors.model.run_layer import RunLayer

Result = TypeVar("Result")


def checkpointed(function: Callable[..., Result], *arguments: object) -> Result:
    """Call the function; what its backward pass needs is computed again then, and is not kept until then.

    The function must do the same both times, and so draw nothing at random.
    """
    result: Result = checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
    return result


def skip_rates(num_layers: int, dropout: float) -> list[float]:
    """Return how often each layer is skipped: LayerSkip (arXiv 2404.16710, section 4.1), from 0 up to `dropout`."""
    deepest = max(1, num_layers - 1)
    return [dropout * (math.exp(layer * math.log(2) / deepest) - 1) for layer in range(num_layers)]


def make_run_layer(
    num_layers: int, *, dropout: float, checkpointing: bool, generator: torch.Generator | None
) -> RunLayer | None:
    """Return how a teacher-forced pass is to run its layers; None where that is plainly.

    Row by row, a skipped layer leaves h [B, T, D] as it was; what a kept one adds is not scaled up. Who skips comes
    from the generator alone (one on the CPU, needed where `dropout` is not 0): the same generator, the same pass, on
    every device.
    """
    if not dropout and not checkpointing:
        return None
    assert not dropout or generator is not None, "dropout is drawn from a generator"
    rates = skip_rates(num_layers, dropout)

    def run_layer(index: int, layer: Callable[[Tensor], Tensor], h_BTD: Tensor) -> Tensor:
        after_BTD = checkpointed(layer, h_BTD) if checkpointing else layer(h_BTD)
        if not rates[index]:
            return after_BTD
        skips_B = torch.rand(len(h_BTD), generator=generator) < rates[index]
        return torch.where(skips_B.to(h_BTD.device)[:, None, None], h_BTD, after_BTD)

    return run_layer
