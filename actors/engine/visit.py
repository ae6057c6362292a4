"""Which rows of which slots a visit touches, as index tensors.

A visit is ragged: sequence s brings its q_s pending positions as packed rows, and only the last one, the current
token, is scored. Attention pads the packed rows to [R, Q]. Where the batch fills most of a range of slots, R runs over
that range, so that caches are read in place; otherwise R = B and caches are gathered.

Shape suffixes: B sequences, N packed rows, R attention rows, Q most rows a sequence brings.
"""

import itertools
from collections.abc import Sequence as Rows
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from actors.engine.request import Sequence

IN_PLACE_SHARE = 0.7  # of a slot range that must be in the batch for attention over all of it to beat a gather


@dataclass(frozen=True, slots=True)
class Visit:
    """All tensors int64 and on the device; `slots` is a range read in place or the batch's slots."""

    slots: slice | Tensor
    flat_N: Tensor  # slot * max_positions + position, where caches are written
    position_N: Tensor
    last_N: Tensor | None  # [B] packed row of every sequence's current token; None: the packed rows are just those
    padded_RQ: Tensor | None  # packed row at every attention place; None: attention rows are the packed rows
    place_N: Tensor | None  # flat attention place of every packed row
    query_position_RQ: Tensor
    num_keys: int

    @property
    def num_places(self) -> int:
        """Attention places, those that hold nothing included."""
        return self.query_position_RQ.numel()

    def pad(self, x_N: Tensor) -> Tensor:
        """Packed [N, ...] -> attention rows [R, Q, ...]."""
        return x_N[:, None] if self.padded_RQ is None else x_N[self.padded_RQ]

    def pack(self, x_RQ: Tensor) -> Tensor:
        """Attention rows [R, Q, ...] -> packed [N, ...]."""
        return x_RQ[:, 0] if self.place_N is None else x_RQ.flatten(0, 1)[self.place_N]

    def read(self, cache_ST: Tensor, width: int) -> Tensor:
        """The first `width` positions of the visit's slots [S, T, ...] -> [R, width, ...]; a view where it can be."""
        part = cache_ST[:, :width]
        return part[self.slots] if isinstance(self.slots, slice) else part.index_select(0, self.slots)


def plan_visit(
    sequences: Rows[Sequence], segment: int, *, max_positions: int, device: torch.device, current_only: bool = False
) -> Visit:
    """Index tensors for the pending positions of `sequences` (in slot order), or for their current tokens alone."""
    slots = [sequence.slot for sequence in sequences if sequence.slot is not None]
    starts = [sequence.position if current_only else sequence.computed[segment] for sequence in sequences]
    stops = [sequence.position + 1 for sequence in sequences]
    lengths = [stop - start for start, stop in zip(starts, stops, strict=True)]
    most, num_rows, first = max(lengths), slots[-1] + 1 - slots[0], slots[0]
    in_place = len(slots) >= IN_PLACE_SHARE * num_rows
    if not in_place:
        num_rows = len(slots)

    def index(values: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]") -> Tensor:
        return torch.from_numpy(values).to(device, non_blocking=True)

    positions = np.fromiter(itertools.chain.from_iterable(map(range, starts, stops)), np.int64, sum(lengths))
    slot_B, length_B = np.array(slots, dtype=np.int64), np.array(lengths, dtype=np.int64)
    slot_N = np.repeat(slot_B, length_B)
    position_N, ends_B = index(positions), np.cumsum(length_B)
    where = slice(first, first + num_rows) if in_place else index(slot_B)
    flat_N = index(slot_N * max_positions + positions)
    last_N = None if most == 1 else index(ends_B - 1)
    if most == 1 and num_rows == len(slots):
        return Visit(where, flat_N, position_N, last_N, None, None, position_N[:, None], max(stops))
    row_B = slot_B - first if in_place else np.arange(num_rows)
    padded = np.zeros((num_rows, most), dtype=np.int64)  # an absent slot repeats row 0; its result is never read
    padded[row_B] = np.minimum((ends_B - length_B)[:, None] + np.arange(most), ends_B[:, None] - 1)
    offset_N = np.arange(len(positions)) - np.repeat(ends_B - length_B, length_B)
    padded_RQ, place_N = index(padded), index(np.repeat(row_B, length_B) * most + offset_N)
    return Visit(where, flat_N, position_N, last_N, padded_RQ, place_N, position_N[padded_RQ], max(stops))
