"""Losses by how early the texts of an image leave and by how long they are: a bound of the mean over all images says
nothing of a few among them, and those that leave earliest may lose most (arXiv 2402.00857).

Shape suffix: I images.
"""

from dataclasses import dataclass

import numpy as np

from actors.engine.request import Completion
from actors.training.exits.asked import Asked
from actors.training.guarantee.bounds import Judge, interval

_QUARTERS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Group:
    """Some images of the sample, and an interval of the mean loss of all that are like them."""

    by: str  # what they are alike in
    least: float
    most: float
    images: int
    mean_loss: float
    low: float
    high: float


def groups_of(asked: Asked, completions: list[Completion], loss_I: np.ndarray, judge: Judge) -> tuple[Group, ...]:
    """Return quarters of the images by the mean layer that their tokens leave at, and by full depth's tokens."""
    depths, lengths, done = [], [], iter(completions)
    for image in asked.images.images:
        layers = [layer for _ in image.rows for layer in next(done).exit_layers]
        depths.append(float(np.mean(layers)))
        lengths.append(float(np.mean([len(row.targets[0]) for row in image.rows])))
    return (
        *_quarters("layer", np.array(depths), loss_I, judge),
        *_quarters("tokens", np.array(lengths), loss_I, judge),
    )


def _quarters(by: str, value_I: np.ndarray, loss_I: np.ndarray, judge: Judge) -> list[Group]:
    """Return fewer than four where values are equal: those stay together."""
    edges = np.unique(np.quantile(value_I, _QUARTERS))
    number_I = np.searchsorted(edges, value_I, side="right")
    found = []
    for number in np.unique(number_I):
        in_I = number_I == number
        value, loss = value_I[in_I], loss_I[in_I]
        low, high = interval(loss, judge.level, binary=judge.binary)
        found.append(Group(by, float(value.min()), float(value.max()), len(loss), float(loss.mean()), low, high))
    return found
