"""Decoder layers that were really computed, which is more than where tokens left.

With features made just in time (engine.kv=jit), a token that goes deep makes all earlier ones of its text catch up: a
position is computed as deep as the deepest step from there on. With copied or projected features (kv=copy, project) it
stays where it left. In lossless mode full depth checks every token.
"""

import itertools
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import numpy as np


class Work(str, Enum):
    CATCHING_UP = "catching_up"
    AS_LEFT = "as_left"
    FULL = "full"


def work_of(engine: Mapping[str, Any]) -> Work:
    """By the engine section of a run's configuration."""
    if engine.get("lossless"):
        return Work.FULL
    return Work.CATCHING_UP if engine.get("kv", "jit") == "jit" else Work.AS_LEFT


def layers_run(exit_layers: Sequence[int], work: Work, num_layers: int | None) -> int | None:
    """Layers computed for one text, over its steps; None where full depth is unknown and counts."""
    if work is Work.FULL:
        return None if num_layers is None else num_layers * len(exit_layers)
    if work is Work.AS_LEFT:
        return sum(exit_layers)
    return sum(itertools.accumulate(reversed(exit_layers), max))


def computed_depth(
    num_caught_up: float, num_left: float, num_steps: int, work: Work, num_layers: int | None
) -> float | None:
    """Return layers computed for a token, by the sums over `num_steps` of what catches up and of what does not.

    None of no steps, and where full depth is unknown and counts.
    """
    full = None if num_layers is None else num_layers * num_steps
    total = {Work.CATCHING_UP: num_caught_up, Work.AS_LEFT: num_left, Work.FULL: full}[work]
    return total / num_steps if total is not None and num_steps else None


def of_kept_tokens(seconds: float, num_tokens: int, num_rows: int) -> float:
    """Return the part of an estimate for `num_rows` rows of the first segment that is for tokens that were kept.

    A row of the first segment is a token. In lossless mode some are taken back, which full depth would never have said.
    """
    return seconds * num_tokens / num_rows if num_rows else 0.0


def caught_up(layers: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return how many layers every step of texts that catch up was computed to; their sum is that of `layers_run`.

    `layers`: their exit layers, one text after the other; `lengths`: steps of each text.
    """
    if not layers.size:
        return layers
    # Backwards, text after text lifted above the one before it, so that one running maximum serves for all.
    lift = np.repeat(np.arange(lengths.size), lengths[::-1]) * (int(layers.max()) + 1)
    computed: np.ndarray = (np.maximum.accumulate(layers[::-1] + lift) - lift)[::-1]
    return computed
