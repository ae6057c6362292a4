"""Where tokens leave -> what a decoder has to compute for them, and what that costs.

As in the engine with just-in-time features: a visit to a segment (the layers between two exits) runs its layers over
all positions of its texts that have not been there yet, and asks its exit about the current ones. So a token that goes
deep makes all earlier ones of its text catch up, in the visit that it needs anyway.

Shape suffixes: N tokens, text after text; T texts.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np


@dataclass(frozen=True)
class Work:
    """What some texts need. All are sums; visits are means where batches are, and need not be whole."""

    visits: float  # of a segment, its exit's question included
    rows: float  # sequences in all visits
    layer_visits: float  # layers of all visits
    layer_positions: float  # layers x positions
    cross_built: float  # (text, layer) pairs whose keys and values of the encoder's states are computed

    def as_array(self) -> np.ndarray:
        return np.array(astuple(self), dtype=float)


@dataclass(frozen=True)
class Costs:
    """Seconds for each unit of `Work`, in its order."""

    visit_s: float
    row_s: float
    layer_visit_s: float
    layer_position_s: float
    cross_built_s: float

    def seconds(self, work: Work) -> float:
        return float(np.dot(astuple(self), work.as_array()))


@dataclass(frozen=True)
class Texts:
    """How long the texts of a recording are: steps of each, and what their decoders are given before the first."""

    steps_T: np.ndarray
    given_T: np.ndarray

    @property
    def starts_T(self) -> np.ndarray:
        """Where every text begins among all tokens."""
        starts: np.ndarray = np.concatenate(([0], np.cumsum(self.steps_T)[:-1]))
        return starts

    @property
    def number_N(self) -> np.ndarray:
        """The number of every token's step in its text, from 1."""
        numbers: np.ndarray = np.arange(1, self.steps_T.sum() + 1) - np.repeat(self.starts_T, self.steps_T)
        return numbers

    def first(self, count: int) -> "Texts":
        return Texts(self.steps_T[:count], self.given_T[:count])


def work_of(
    layer_N: np.ndarray, exits: Sequence[int], texts: Texts, rows_per_visit: int, *, built_from: int | None
) -> Work:
    """Return the work of tokens that leave after `layer_N` layers, each of which is one of `exits`.

    `built_from`: the first segment for whose layers keys and values of the encoder's states are computed, once per text
    that comes there; none: attention reads the states themselves everywhere (actors/engine/cross_source.py).
    """
    visits = rows = layer_visits = positions = built = 0.0
    number_N, starts_T, before = texts.number_N, texts.starts_T, 0
    for segment, exit_layer in enumerate(exits):
        reaches_N = layer_N > before
        count, layers = float(reaches_N.sum()), exit_layer - before
        last_T = np.maximum.reduceat(number_N * reaches_N, starts_T)
        visits += count / rows_per_visit
        rows += count
        layer_visits += layers * count / rows_per_visit
        positions += layers * float((last_T + texts.given_T * (last_T > 0)).sum())
        if built_from is not None and segment >= built_from:
            built += layers * float((last_T > 0).sum())
        before = exit_layer
    return Work(visits, rows, layer_visits, positions, built)


def fit_costs(passes: Sequence[tuple[Work, float]]) -> Costs:
    """Return the costs, none negative, that explain the seconds of some passes with the least relative error.

    Least squares over every set of costs that are not zero: there are few, and the best one that is feasible is the
    optimum.
    """
    amounts = np.stack([work.as_array() / seconds for work, seconds in passes])
    best, least = np.zeros(amounts.shape[1]), float("inf")
    for chosen in range(1, 2 ** amounts.shape[1]):
        columns = [i for i in range(amounts.shape[1]) if chosen >> i & 1 and amounts[:, i].any()]
        if not columns:
            continue
        scale = amounts[:, columns].max(axis=0)
        solved, *_ = np.linalg.lstsq(amounts[:, columns] / scale, np.ones(len(passes)), rcond=1e-9)
        if (solved < 0).any():
            continue
        error = float(((amounts[:, columns] @ (solved / scale) - 1) ** 2).sum())
        if error < least - 1e-12:
            best, least = np.zeros(amounts.shape[1]), error
            best[columns] = solved / scale
    return Costs(*best.tolist())
