"""Which rows of which slots a visit touches, as index tensors.

A visit is ragged: sequence s brings its q_s pending positions as packed rows, and only the last one, the current
token, is scored. Attention pads the packed rows to [R, Q], in parts of sequences that bring about as many, so that
little of it is padding. Where the batch fills most of a range of slots, R runs over that range, so that caches are
read in place; otherwise caches are gathered.

Shape suffixes: B sequences, N packed rows, R attention rows of a part, Q most rows a sequence of it brings.
"""

import itertools
from collections.abc import Sequence as Rows
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from actors.engine.request import Sequence

IN_PLACE_SHARE = 0.7  # of a slot range that must be in the batch for attention over all of it to beat a gather
PART_PLACES = {"cpu": 24}  # attention places that cost as much as a part of its own: a few more kernels a layer
OTHER_PART_PLACES = 2048  # of devices that compute much in the time a kernel takes to start


@dataclass(frozen=True, slots=True)
class Part:
    """Attention rows of some of the sequences; `slots` is a range read in place or their slots."""

    slots: slice | Tensor
    padded_RQ: Tensor | None  # packed row at every attention place; None: attention rows are the packed rows
    query_position_RQ: Tensor
    num_keys: int

    def pad(self, x_N: Tensor) -> Tensor:
        """Packed [N, ...] -> attention rows [R, Q, ...]."""
        return x_N[:, None] if self.padded_RQ is None else x_N[self.padded_RQ]

    def read(self, cache_ST: Tensor, width: int) -> Tensor:
        """The first `width` positions of the part's slots [S, T, ...] -> [R, width, ...]; a view where it can be."""
        part = cache_ST[:, :width]
        return part[self.slots] if isinstance(self.slots, slice) else part.index_select(0, self.slots)


@dataclass(frozen=True, slots=True)
class Visit:
    """All tensors int64 and on the device."""

    flat_N: Tensor  # slot * max_positions + position, where caches are written
    position_N: Tensor
    last_N: Tensor | None  # [B] packed row of every sequence's current token; None: the packed rows are just those
    parts: tuple[Part, ...]
    place_N: Tensor | None  # attention place of every packed row, counted through all parts
    num_context: int  # encoder positions that any of the sequences has

    @property
    def num_places(self) -> int:
        """Attention places, those that hold nothing included."""
        return sum(part.query_position_RQ.numel() for part in self.parts)

    def pack(self, parts_RQ: Rows[Tensor]) -> Tensor:
        """Attention rows [R, Q, ...] of every part -> packed [N, ...]."""
        if self.place_N is None:
            return parts_RQ[0][:, 0]
        flat = [x_RQ.flatten(0, 1) for x_RQ in parts_RQ]
        return (flat[0] if len(flat) == 1 else torch.cat(flat)).index_select(0, self.place_N)


def plan_visit(
    sequences: Rows[Sequence], segment: int, *, max_positions: int, device: torch.device, current_only: bool = False
) -> Visit:
    """Index tensors for the pending positions of `sequences` (in slot order), or for their current tokens alone."""

    def index(values: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]") -> Tensor:
        return torch.from_numpy(values).to(device, non_blocking=True)

    slots = [sequence.slot for sequence in sequences if sequence.slot is not None]
    starts = [sequence.position if current_only else sequence.computed[segment] for sequence in sequences]
    stops = [sequence.position + 1 for sequence in sequences]
    lengths = [stop - start for start, stop in zip(starts, stops, strict=True)]
    most, context = max(lengths), max(sequence.num_context for sequence in sequences)
    positions = np.fromiter(itertools.chain.from_iterable(map(range, starts, stops)), np.int64, sum(lengths))
    slot_B, length_B, stop_B = (np.array(values, dtype=np.int64) for values in (slots, lengths, stops))
    position_N, ends_B = index(positions), np.cumsum(length_B)
    flat_N = index(np.repeat(slot_B, length_B) * max_positions + positions)
    last_N = None if most == 1 else index(ends_B - 1)
    one_part = PART_PLACES.get(device.type, OTHER_PART_PLACES)
    parts, place_N, num_places = [], np.empty(len(positions), dtype=np.int64), 0
    for rows in [None] if most == 1 else split(length_B, one_part):
        slot_R, length_R, ends_R, stop_R = (
            values if rows is None else values[rows] for values in (slot_B, length_B, ends_B, stop_B)
        )
        first, num_rows, width = int(slot_R[0]), int(slot_R[-1] + 1 - slot_R[0]), int(length_R.max())
        in_place = len(slot_R) >= IN_PLACE_SHARE * num_rows
        where = slice(first, first + num_rows) if in_place else index(slot_R)
        num_keys = int(stop_R.max())
        num_rows = num_rows if in_place else len(slot_R)
        if most == 1 and num_rows == len(slots):
            return Visit(flat_N, position_N, last_N, (Part(where, None, position_N[:, None], num_keys),), None, context)
        row_R = slot_R - first if in_place else np.arange(num_rows)
        # An absent slot repeats row 0, a short sequence its last row; what comes of them is never read.
        padded = np.zeros((num_rows, width), dtype=np.int64)
        padded[row_R] = np.minimum((ends_R - length_R)[:, None] + np.arange(width), ends_R[:, None] - 1)
        real_RQ = np.arange(width) < length_R[:, None]
        place_N[padded[row_R][real_RQ]] = num_places + (row_R[:, None] * width + np.arange(width))[real_RQ]
        num_places += padded.size
        padded_RQ = index(padded)
        parts.append(Part(where, padded_RQ, position_N[padded_RQ], num_keys))
    return Visit(flat_N, position_N, last_N, tuple(parts), index(place_N), context)


def split(length_B: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]", one_part: int) -> "list[np.ndarray | None]":
    """Sequences by how many rows they bring, in powers of two; None: all of them in one part.

    Those that bring fewer join those that bring more where padding them costs less than `one_part` places, a part.
    """
    power_B = np.ceil(np.log2(length_B)).astype(np.int64)
    groups: list[list[int]] = []
    for power in sorted(set(power_B.tolist())):
        members = np.flatnonzero(power_B == power)
        if groups and len(groups[-1]) * int(length_B[members].max()) - int(length_B[groups[-1]].sum()) < one_part:
            groups[-1] += members.tolist()
        else:
            groups.append(members.tolist())
    return [None] if len(groups) == 1 else [np.array(sorted(group)) for group in groups]
