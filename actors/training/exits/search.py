"""Search over sets of layers for the one that takes the least time."""

import itertools
from collections.abc import Callable, Iterable, Sequence

Exits = tuple[int, ...]  # before full depth, increasing
Time = Callable[[Exits], float]

MOST_EXHAUSTIVE = 10  # candidates all of whose sets are tried: a thousand sets


def best_sets(candidates: Sequence[int], time: Time, count: int) -> list[Exits]:
    """Return the `count` sets that take the least time, the best first; of equals the smaller, then the shallower.

    All sets are tried where candidates are few. Otherwise the search goes from none in steps: one layer more, one
    fewer or one exchanged for another, whatever saves most, until nothing does; what is returned are the best of all
    sets seen on the way. A set that takes infinite time is none.
    """
    seen: dict[Exits, float] = {}

    def timed(exits: Exits) -> float:
        if exits not in seen:
            seen[exits] = time(exits)
        return seen[exits]

    if len(candidates) <= MOST_EXHAUSTIVE:
        sizes = range(len(candidates) + 1)
        for exits in itertools.chain.from_iterable(itertools.combinations(sorted(candidates), n) for n in sizes):
            timed(exits)
    else:
        current: Exits = ()
        while timed(step := min(_one_step(current, candidates), key=timed)) < timed(current):
            current = step
    possible = [exits for exits, seconds in seen.items() if seconds < float("inf")]
    return sorted(possible, key=lambda exits: (seen[exits], len(exits), exits))[:count]


def _one_step(exits: Exits, candidates: Iterable[int]) -> list[Exits]:
    """Return the sets with one layer more, one fewer, or one exchanged for another."""
    others = [layer for layer in candidates if layer not in exits]
    fewer = [tuple(e for e in exits if e != layer) for layer in exits]
    return [*fewer, *(tuple(sorted((*rest, layer))) for rest in (exits, *fewer) for layer in others)]
