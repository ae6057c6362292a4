"""Which rows of which slots a visit touches, as index tensors.

A visit is ragged: sequence s brings its q_s pending positions as packed rows, and only the last one, the current
token, is scored. Attention pads the packed rows to [R, Q], in parts of sequences that bring about as many, so that
little of it is padding. Where the batch fills most of a range of slots, R runs over that range, so that caches are
read in place; otherwise caches are gathered.

Shape suffixes: B sequences, N packed rows, R attention rows of a part, Q most rows a sequence of it brings.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from actors.engine.request import ActiveSequence

Array: TypeAlias = "np.ndarray[tuple[int, ...], np.dtype[np.int64]]"

IN_PLACE_SHARE = 0.7  # of a slot range that must be in the batch for attention over all of it to beat a gather
PART_PLACES = {"cpu": 24}  # attention places that cost as much as a part of its own: a few more kernels a layer
OTHER_PART_PLACES = 2048  # of devices that compute much in the time a kernel takes to start


@dataclass(frozen=True, slots=True)
class VisitPart:
    """Attention rows of some of the sequences; `slots` is a range read in place or their slots."""

    slots: slice | Tensor
    padded_RQ: Tensor | None  # packed row at every attention place; None: the first packed rows are the attention rows
    query_position_RQ: Tensor
    num_keys: int

    def pad(self, x_N: Tensor) -> Tensor:
        """Turn packed [N, ...] into attention rows [R, Q, ...]."""
        return x_N[: len(self.query_position_RQ), None] if self.padded_RQ is None else x_N[self.padded_RQ]

    def read(self, cache_S: Tensor) -> Tensor:
        """Return the part's slots of a cache [S, ...] as [R, ...]; a view where it can be."""
        return cache_S[self.slots] if isinstance(self.slots, slice) else cache_S.index_select(0, self.slots)


@dataclass(frozen=True, slots=True)
class Visit:
    """All tensors int64 and on the device.

    Packed rows may be followed by some that repeat the last one, so that matrix products get a number of rows they are
    quick at; those are never written to a cache.
    """

    num_rows: int  # packed rows that are real
    num_sequences: int
    slot_N: Tensor
    position_N: Tensor
    flat_N: Tensor  # slot * max_positions + position
    last_N: Tensor | None  # [B] packed row of every sequence's current token; None: the packed rows are just those
    parts: tuple[VisitPart, ...]
    place_N: Tensor | None  # attention place of every packed row, counted through all parts
    num_context: int  # encoder positions that any of the sequences has

    def pack(self, parts_RQ: Sequence[Tensor]) -> Tensor:
        """Turn attention rows [R, Q, ...] of every part into packed [N, ...]."""
        if self.place_N is None:
            x_R = parts_RQ[0][:, 0]
            missing = len(self.position_N) - len(x_R)
            return F.pad(x_R, (0, 0) * (x_R.dim() - 1) + (0, missing)) if missing else x_R
        flat = [x_RQ.flatten(0, 1) for x_RQ in parts_RQ]
        return (flat[0] if len(flat) == 1 else torch.cat(flat)).index_select(0, self.place_N)


def plan_visit(
    sequences: Sequence[ActiveSequence], segment: int, *,
    max_positions: int, device: torch.device, fill: Callable[[int], int] = int, current_only: bool = False,
) -> Visit:  # fmt: skip
    """Return index tensors for the pending positions of `sequences` (in slot order), or for their current tokens alone.

    `fill` says how many rows products should get in place of a number of them.
    """
    slots = [sequence.slot for sequence in sequences]
    starts = [sequence.position if current_only else sequence.computed[segment] for sequence in sequences]
    lengths = [sequence.position + 1 - start for sequence, start in zip(sequences, starts, strict=True)]
    num_rows, num_context = sum(lengths), max(sequence.num_context for sequence in sequences)
    more = fill(num_rows) - num_rows

    def on_device(values: "Array") -> Tensor:
        return torch.from_numpy(values).to(device, non_blocking=True)

    slot_B, length_B = np.array(slots, dtype=np.int64), np.array(lengths, dtype=np.int64)
    ragged = num_rows > len(slots)
    if ragged:
        positions = itertools.chain.from_iterable(
            map(range, starts, [a + n for a, n in zip(starts, lengths, strict=True)])
        )
        position_n, slot_n = np.fromiter(positions, np.int64, num_rows), np.repeat(slot_B, length_B)
    else:
        position_n, slot_n = np.array(starts, dtype=np.int64), slot_B
    ends_B = np.cumsum(length_B)
    slot_N, position_N = on_device(_filled(slot_n, more)), on_device(_filled(position_n, more))
    flat_N = slot_N * max_positions + position_N
    last_N = on_device(_filled(ends_B - 1, fill(len(slots)) - len(slots))) if ragged else None
    parts, place_n, num_places = [], np.empty(num_rows, dtype=np.int64), 0
    stop_B = position_n[ends_B - 1] + 1
    one_part = PART_PLACES.get(device.type, OTHER_PART_PLACES)
    for rows in split(length_B, one_part) if ragged else [None]:
        slot_R, length_R, ends_R, stop_R = (
            values if rows is None else values[rows] for values in (slot_B, length_B, ends_B, stop_B)
        )
        first, span, num_keys = int(slot_R[0]), int(slot_R[-1] + 1 - slot_R[0]), int(stop_R.max())
        in_place = len(slot_R) >= IN_PLACE_SHARE * span
        where = slice(first, first + span) if in_place else on_device(slot_R)
        if not ragged and (not in_place or span == len(slots)):
            part = VisitPart(where, None, position_N[:num_rows, None], num_keys)
            return Visit(num_rows, len(slots), slot_N, position_N, flat_N, None, (part,), None, num_context)
        row_R, width = slot_R - first if in_place else np.arange(len(slot_R)), int(length_R.max())
        # An absent slot repeats row 0, a short sequence its last row; what comes of them is never read.
        padded = np.zeros((span if in_place else len(slot_R), width), dtype=np.int64)
        padded[row_R] = np.minimum((ends_R - length_R)[:, None] + np.arange(width), ends_R[:, None] - 1)
        real_RQ = np.arange(width) < length_R[:, None]
        place_n[padded[row_R][real_RQ]] = num_places + (row_R[:, None] * width + np.arange(width))[real_RQ]
        num_places += padded.size
        padded_RQ = on_device(padded)
        parts.append(VisitPart(where, padded_RQ, position_N[padded_RQ], num_keys))
    place_N = on_device(_filled(place_n, more))
    return Visit(num_rows, len(slots), slot_N, position_N, flat_N, last_N, tuple(parts), place_N, num_context)


def index_tensor(values: Sequence[int] | Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Return int64 indices on the device."""
    return torch.tensor(values, dtype=torch.int64).to(device, non_blocking=True)


def _filled(values: "Array", more: int) -> "Array":
    """Return the values with the last one repeated so many times more."""
    return np.concatenate([values, np.full(more, values[-1])]) if more else values


def split(length_B: "Array", one_part: int) -> "list[Array | None]":
    """Group sequences by how many rows they bring, in powers of two; None: all of them in one part.

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
