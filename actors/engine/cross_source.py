"""What cross-attention of a visit reads: K/V that are computed once and kept, or the encoder states themselves.

Scores are q (W_k x) = (W_k' q) x, so K and V need not exist: attention over the states gives the same result with the
projections moved to the query ("absorbed"). Projecting costs 2 D I multiplications per encoder position and layer,
once; going without costs 2 (H D - I) more per encoder position, layer and output position (D width of the states, H
heads of width E, I = H E). Projecting hence pays from D E / (D - E) output positions on by multiplications. By time it
pays earlier where a visit brings many positions of a sequence, and later where it brings one: K/V are then read from
memory layer by layer for a single product each, while the states are the same for all layers and stay in the caches.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from actors.engine.batch import Batch
from conf.decoder import DecoderConfig
from conf.engine import CrossAttention

RAGGED_GAIN = 1.75  # measured on CPUs: 17 positions a sequence were too few to project for, 30 enough (D 192, E 32)


class CrossSource:
    """Chooses for every visit; learns how many positions of a sequence reach each segment."""

    def __init__(
        self, cross: CrossAttention, config: DecoderConfig, *, exit_layers: tuple[int, ...], max_new_tokens: int
    ) -> None:
        width, head = config.d_cross, config.d_head
        self._pays_from = float("inf") if width <= head else width * head / (width - head) / RAGGED_GAIN
        absorbs_first = config.merged is None and (
            cross is CrossAttention.ABSORBED
            or (cross is CrossAttention.AUTO and max_new_tokens <= 2 * head)  # outputs end well before the limit
        )
        self._projects_deep = (
            len(exit_layers) > 1 and cross is CrossAttention.AUTO and max_new_tokens >= self._pays_from
        )
        self._absorbs_first = absorbs_first
        self._positions, self._sequences = [0] * len(exit_layers), [0] * len(exit_layers)
        self._learning = True
        # The first layer that may need K/V; all of them from there on have room for them.
        self.first_kv_layer = 0 if not absorbs_first else exit_layers[0] if self._projects_deep else config.num_layers
        self.num_kv_layers = config.num_layers - self.first_kv_layer

    @contextmanager
    def not_learning(self) -> Iterator[None]:
        """Let visits of a measurement run as the first real ones will, and say nothing of real sequences."""
        self._learning = False
        try:
            yield
        finally:
            self._learning = True

    def absorbed(self, batch: Batch) -> bool:
        """Return whether the visit reads encoder states; otherwise K/V of all its sequences must be there."""
        if not self._absorbs_first:
            return False
        if batch.segment == 0 or not self._projects_deep or not self._learning:
            return True
        segment = batch.segment
        self._positions[segment] += sum(batch.weights)
        self._sequences[segment] += sum(sequence.computed[segment] == 0 for sequence in batch.sequences)
        return self._positions[segment] < self._pays_from * self._sequences[segment]
