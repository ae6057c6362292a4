"""From a request to an active sequence: who waits for a slot, and what a sequence begins with. No torch here."""

from collections import deque
from collections.abc import Callable

from actors.engine.request import ActiveSequence, Request
from actors.engine.slots import SlotAllocator
from conf.model import given_ids


class Admission:
    """Requests that wait for one of `num_slots` slots, first come, first served."""

    def __init__(
        self, num_slots: int, clock: Callable[[], float], *,
        num_segments: int, max_new_tokens: int, start_id: int, prefix_ids: tuple[int, ...], prefix_starts: bool,
        forced_eos: bool = False,
    ) -> None:  # fmt: skip
        """`prefix_starts`: a prefix stands in the place of the start token. `forced_eos`: the last allowed step would
        emit the end token, so it is not run at all."""
        self.slots = SlotAllocator(num_slots)
        self._clock, self._num_segments = clock, num_segments
        self._max_new_tokens, self._forced_eos = max_new_tokens, forced_eos
        self._start_id, self._prefix_starts = start_id, prefix_starts
        self._prefix_ids = prefix_ids  # a prefix of the request's own goes before
        self._waiting: deque[tuple[Request, float]] = deque()

    def add(self, request: Request) -> None:
        self._waiting.append((request, self._clock()))

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def admit(self, count: int) -> tuple[ActiveSequence, ...]:
        """Give the next `count` requests a slot each; there must be as many of both."""
        now_s = self._clock()
        return tuple(self._begin(*self._waiting.popleft(), now_s) for _ in range(count))

    def _begin(self, request: Request, enqueued_s: float, now_s: float) -> ActiveSequence:
        limit = min(self._max_new_tokens, request.max_new_tokens or self._max_new_tokens)
        prefix_ids = self._prefix_ids if request.prefix_ids is None else request.prefix_ids
        given = given_ids(self._start_id, prefix_ids, prefix_starts=self._prefix_starts)
        return ActiveSequence(
            request=request,
            slot=self.slots.allocate(),
            computed=[0] * self._num_segments,
            limit=max(1, limit - self._forced_eos),
            given_ids=given,
            position=len(given) - 1,
            input_id=given[-1],
            enqueued_s=enqueued_s,
            admitted_s=now_s,
        )
