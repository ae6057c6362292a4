"""What the runner asks of a kind of decoder layer: to run over the slot caches, whatever its attention reads.

Shape suffixes: N packed rows, B sequences, C encoder positions, I inner width of a layer's keys, D width.
"""

from typing import Any, Protocol, TypeAlias

from torch import Tensor

from actors.engine.visit import Visit

Sources: TypeAlias = Any  # what the rows of a visit may attend to, the same for all layers; each kind has its own


class LayerRunner(Protocol):
    """All layers of one decoder; K and V of a position are rows of the cache, written once."""

    @property
    def is_packed(self) -> bool:
        """Return whether products are quicker with `filled_rows`."""

    def sources(self, visit: Visit, *, absorbed: bool) -> Sources:
        """Return what the visit's rows may attend to; `absorbed`: encoder states are read, and not their K/V."""

    def run(self, index: int, h_ND: Tensor, visit: Visit, sources: Sources) -> Tensor:
        """Write K and V of the visit's rows and return what the layer makes of them."""

    def leave(self, index: int, h_ND: Tensor, visit: Visit, sources: Sources) -> None:
        """Write K and V of the visit's rows, no more."""

    def run_current(self, index: int, h_ND: Tensor, visit: Visit, sources: Sources) -> Tensor:
        """Return what the layer makes of rows whose K and V are in the cache."""

    def own_kv(self, index: int, h_ND: Tensor, position_N: Tensor) -> Tensor:
        """Return K and V side by side [N, 2 I], as they are written."""

    def kv_rows(self, slot_N: Tensor, position_N: Tensor) -> Tensor:
        """Return the rows of the flattened cache [S * T, 2 I] that hold K and V of output positions."""

    def write_cross(self, index: int, slots_B: Tensor, context_BCD: Tensor) -> None:
        """Project K and V of the first C encoder positions of the slots, and keep them."""
