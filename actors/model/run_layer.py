"""How a teacher-forced pass runs a decoder layer, where training does more with one than call it."""

from collections.abc import Callable

from torch import Tensor

# (layer index from 0, the layer as a function of h [B, T, D], h) -> h after it
RunLayer = Callable[[int, Callable[[Tensor], Tensor], Tensor], Tensor]


def run_plainly(index: int, layer: Callable[[Tensor], Tensor], h_BTD: Tensor) -> Tensor:
    """Call the layer."""
    return layer(h_BTD)
