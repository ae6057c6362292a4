"""Attention parts: every sequence is in one, and padding is bounded."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from actors.engine.request import ActiveSequence, Request
from actors.engine.visit import plan_visit, split

NOTHING = Request(0, np.zeros((0, 0, 3), np.uint8), ())


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(0, 200))
def test_parts_share_out_the_sequences(lengths: list[int], one_part: int) -> None:
    length_B = np.array(lengths)
    parts = [np.arange(len(lengths)) if part is None else part for part in split(length_B, one_part)]
    assert sorted(row for part in parts for row in part.tolist()) == list(range(len(lengths)))
    places = sum(len(part) * int(length_B[part].max()) for part in parts)
    # Less than twice the rows, but for what a part of its own would have cost.
    assert places < 2 * sum(lengths) + max(0, one_part) * len(set(lengths))


def filled(rows: list[Any], fill: Callable[[int], int]) -> list[Any]:
    return rows + rows[-1:] * (fill(len(rows)) - len(rows))


@given(st.data(), st.lists(st.integers(0, 9), min_size=1, max_size=30, unique=True), st.integers(1, 8))
def test_packed_rows_come_back_from_their_places(data: st.DataObject, slots: list[int], multiple: int) -> None:
    sequences = []
    for slot in sorted(slots):
        position = data.draw(st.integers(0, 19))
        computed = data.draw(st.integers(0, position))
        sequences.append(ActiveSequence(NOTHING, slot, [position + 1, computed], 20, position=position))

    def fill(num_rows: int) -> int:
        return num_rows + -num_rows % multiple

    visit = plan_visit(sequences, 1, max_positions=20, device=torch.device("cpu"), fill=fill)
    wanted = [(s.slot, p) for s in sequences for p in s.pending(1)]
    assert visit.num_rows == len(wanted)
    assert len(visit.flat_N) == len(visit.position_N) == fill(len(wanted))
    assert visit.flat_N.tolist() == [slot * 20 + p for slot, p in filled(wanted, fill) if slot is not None]
    row_N = torch.arange(fill(len(wanted)))

    def packed(parts: list[torch.Tensor]) -> list[int]:
        back_N = visit.pack(parts)
        assert len(back_N) == fill(len(wanted))  # what fills up may be anything
        return back_N[: len(wanted)].tolist()

    assert packed([part.pad(row_N) for part in visit.parts]) == row_N[: len(wanted)].tolist()
    # Every attention row that holds something reads the cache of its own slot, and knows its position.
    slot_of_cache = torch.arange(10)[:, None].expand(10, 20)
    owners = [part.read(slot_of_cache)[:, :1].expand(-1, part.query_position_RQ.shape[1]) for part in visit.parts]
    assert packed(owners) == [slot for slot, _ in wanted]
    assert packed([part.query_position_RQ for part in visit.parts]) == [p for _, p in wanted]
    if visit.last_N is not None:
        current = [(s.slot, s.position) for s in sequences]
        assert visit.num_sequences == len(current)
        assert [wanted[row] for row in visit.last_N.tolist()] == filled(current, fill)
