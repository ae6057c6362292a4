"""Which kinds a scene shows, and which it could have shown: a split never shows a pair of another."""

import functools

import numpy as np

from jobs.scenes.sprites import Sprite, load_sprites, pair_split


def choose_sprites(
    rng: np.random.Generator, split: str, count: int, repeat: bool, kinds: tuple[Sprite, ...]
) -> list[Sprite]:
    """`count` sprites of these kinds, all pairs of kinds from this split; with `repeat`, one kind several times."""
    repeats = 0
    if repeat:
        repeats = int(rng.integers(1, min(max(count - 1, 2), 4)))  # from three objects on, another kind stays
    chosen: list[Sprite] = []
    while len(chosen) < count - repeats:
        sprite = kinds[int(rng.integers(len(kinds)))]
        if all(sprite.kind in partners(other.kind, split) for other in chosen):
            chosen.append(sprite)
    return chosen + [chosen[0]] * repeats


def choose_absent(
    rng: np.random.Generator, split: str, shown: list[Sprite], kinds: tuple[Sprite, ...]
) -> tuple[Sprite, ...]:
    """Kinds that are not shown but could have been, in this split: their absence cannot be guessed from the others."""
    allowed = frozenset.intersection(*(partners(sprite.kind, split) for sprite in shown))
    categories = {sprite.category for sprite in shown}
    shuffled = (kinds[place] for place in rng.permutation(len(kinds)).tolist())
    pool = [sprite for sprite in shuffled if sprite.kind in allowed]
    if rng.random() < 0.7:
        pool.sort(key=lambda sprite: sprite.category not in categories)  # stable: stays shuffled within both halves
    return tuple(pool[:4])


@functools.cache
def partners(kind: int, split: str) -> frozenset[int]:
    """Return the kinds that may share a scene with this one."""
    everything = load_sprites()
    return frozenset(s.kind for s in everything if s.kind != kind and pair_split(s, everything[kind]) == split)
