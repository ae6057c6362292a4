"""Finds the row that kills its worker: chunks that keep dying are cut in halves until the row is alone.

A worker that dies cannot tell why, so what was running is noted before it runs. The first two attempts of a chunk are
ordinary (a death may be a preemption). From the third on, the chunk runs alone in its worker, piece by piece: a piece
that was running when the worker died is halved, and a single row that died twice is condemned: it gets an errors row.
The log lives in the driver's Ray job; it is bookkeeping only, and knows nothing of Ray.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.ops.slow import note_attempt

ORDINARY_ATTEMPTS = 2
MAX_ATTEMPTS = 200  # of one chunk; after that, everything in it that has not been cleared is condemned
MOST_DEATHS = 40  # of tasks that read and decode one chunk: after them it is not even read
_DEATHS_OF_ONE_ROW = 2

Piece = tuple[int, int]  # positions first..end-1 of the chunk's rows


@dataclass(frozen=True, slots=True)
class Attempt:
    """How to run a chunk now. `alone`: no other chunk in the worker; `condemned` rows are not run at all."""

    number: int
    pieces: tuple[Piece, ...]
    alone: bool
    condemned: tuple[int, ...]


@dataclass(slots=True)
class _Case:
    """What is known of one chunk that has been begun and not finished."""

    attempts: int = 0
    suspects: list[Piece] = field(default_factory=list)
    cleared: list[Piece] = field(default_factory=list)
    running: Piece | None = None
    deaths: dict[int, int] = field(default_factory=dict)  # single rows
    condemned: set[int] = field(default_factory=set)


class CrashLog:
    """One case per unfinished chunk."""

    def __init__(self) -> None:
        self._cases: dict[tuple[str, int], _Case] = {}

    def begin(self, shard: str, chunk: int, num_rows: int) -> Attempt:
        """Note that a worker is about to run a chunk of this many rows."""
        case = self._cases.setdefault((shard, chunk), _Case())
        case.attempts += 1
        note_attempt(f"chunk {chunk} of {shard}", case.attempts)
        if case.attempts <= ORDINARY_ATTEMPTS:
            return Attempt(case.attempts, ((0, num_rows),), alone=False, condemned=())
        if case.attempts == ORDINARY_ATTEMPTS + 1:
            case.suspects = [(0, num_rows)]
        self._blame(case)
        if case.attempts > MAX_ATTEMPTS:
            doomed, case.suspects = case.suspects or case.cleared, []
            case.cleared = [piece for piece in case.cleared if piece not in doomed]
            case.condemned.update(row for first, end in doomed for row in range(first, end))
        # Suspects first: what has survived once is run again only after they have.
        pieces = tuple(case.suspects + case.cleared)
        return Attempt(case.attempts, pieces, alone=True, condemned=tuple(sorted(case.condemned)))

    def attempts(self, shard: str, chunks: Sequence[int]) -> list[int]:
        """Return how often each of these chunks was begun without coming to its end."""
        cases = [self._cases.get((shard, chunk)) for chunk in chunks]
        return [0 if case is None else case.attempts for case in cases]

    def enter(self, shard: str, chunk: int, piece: Piece) -> None:
        """Note that this piece, and nothing else, is about to run in its worker."""
        self._cases.setdefault((shard, chunk), _Case()).running = (piece[0], piece[1])

    def leave(self, shard: str, chunk: int) -> None:
        """Note that the piece that was running survived."""
        case = self._cases.setdefault((shard, chunk), _Case())  # new if the log itself has died since
        if case.running in case.suspects:
            case.suspects.remove(case.running)
            case.cleared.append(case.running)
        case.running = None

    def done(self, shard: str, chunk: int) -> None:
        self._cases.pop((shard, chunk), None)

    @staticmethod
    def _blame(case: _Case) -> None:
        piece, case.running = case.running, None
        if piece is None:
            return
        pieces = case.suspects if piece in case.suspects else case.cleared
        if piece not in pieces:
            return
        pieces.remove(piece)
        first, end = piece
        if end - first > 1:
            middle = (first + end) // 2
            case.suspects[:0] = [(first, middle), (middle, end)]
            return
        case.deaths[first] = case.deaths.get(first, 0) + 1
        if case.deaths[first] >= _DEATHS_OF_ONE_ROW:
            case.condemned.add(first)
        else:
            case.suspects.insert(0, piece)
