"""Fixed cache rows and who holds them."""


class SlotAllocator:
    """Free list over `num_slots` slots; the slot given back last is given out first, its memory is warm."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._free = list(range(num_slots - 1, -1, -1))

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def share_held(self) -> float:
        return 1 - len(self._free) / self.num_slots

    def allocate(self) -> int:
        assert self._free, "no free slot"
        return self._free.pop()

    def release(self, slot: int) -> None:
        assert 0 <= slot < self.num_slots, slot
        assert slot not in self._free, f"slot {slot} is free already"
        self._free.append(slot)

    def check_integrity(self, held: set[int]) -> None:
        """Assert that every slot is either free or held, never both and never neither."""
        free = set(self._free)
        assert len(free) == len(self._free), "a slot is free twice"
        assert not free & held, f"slots both free and held: {sorted(free & held)}"
        assert len(free) + len(held) == self.num_slots, f"{self.num_slots - len(free) - len(held)} slots are lost"
