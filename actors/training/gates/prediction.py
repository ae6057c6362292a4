"""How well a gate tells an exit's right tokens from its wrong ones; "right" is what full depth says, too.

Shape suffixes: N tokens, E exits (the last is full depth), P points of a curve.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from actors.training.exits.work import Texts
from actors.training.thresholds import Recording, column_left_at, thresholds_at_risk
from pipeline.report.work import caught_up


def auroc(confidence_N: np.ndarray, right_N: np.ndarray) -> float:
    """Return the chance that a right token is surer than a wrong one, ties as a half; NaN where one kind is missing.

    The area under the receiver operating characteristic, as the Mann-Whitney statistic.
    """
    num_right, num_wrong = int(right_N.sum()), int((~right_N).sum())
    if num_right == 0 or num_wrong == 0:
        return float("nan")
    ranks_N = rankdata(confidence_N)
    return float((ranks_N[right_N].sum() - num_right * (num_right + 1) / 2) / (num_right * num_wrong))


def risk_coverage(confidence_N: np.ndarray, right_N: np.ndarray) -> np.ndarray:
    """Return, for the surest 1, 2, ... N tokens, the share of them that is wrong [N].

    Tokens that are equally sure come as they would on average: they can only leave together.
    """
    order = np.argsort(-confidence_N, kind="stable")
    wrong_N = (~right_N[order]).astype(float)
    _, first, size = np.unique(-confidence_N[order], return_index=True, return_counts=True)
    sums = np.add.reduceat(wrong_N, first)
    risk_N: np.ndarray = np.cumsum(np.repeat(sums / size, size)) / np.arange(1, len(order) + 1)
    return risk_N


def best_risk_coverage(right_N: np.ndarray) -> np.ndarray:
    """Return the same [N] for a gate that knows: all right tokens leave before any wrong one."""
    return risk_coverage(right_N.astype(float), right_N)


@dataclass(frozen=True)
class Leaving:
    """Where tokens leave, by some rule, and what that is worth."""

    mean_depth: float  # layers
    computed_depth: float  # layers, catching up included
    wrong: float  # share of all tokens that full depth would not say
    wrong_at_random: float  # the same where as many tokens leave at every exit, any of them


def leaving(column_N: np.ndarray, exits: tuple[int, ...], agrees_NE: np.ndarray, texts: Texts) -> Leaving:
    """Describe a rule by the column of `exits` that it lets every token leave at."""
    layer_N = np.asarray(exits)[column_N]
    shares_E = np.bincount(column_N, minlength=len(exits)) / len(column_N)
    return Leaving(
        mean_depth=float(layer_N.mean()),
        computed_depth=float(caught_up(layer_N, texts.steps_T).mean()),
        wrong=float(1 - agrees_NE[np.arange(len(column_N)), column_N].mean()),
        wrong_at_random=float(shares_E @ (1 - agrees_NE.mean(0))),
    )


def leaving_at_risk(
    chosen_by: Recording, reported_on: Recording, texts: Texts, exits: tuple[int, ...], risk: float
) -> Leaving:
    """Describe a gate whose thresholds keep a risk on some tokens, on other tokens."""
    thresholds = thresholds_at_risk(chosen_by, risk)
    column_N = column_left_at(reported_on.confidence_NE, list(enumerate(thresholds)))
    return leaving(column_N, exits, reported_on.agrees_NE, texts)


def leaving_at_the_first_right(agrees_NE: np.ndarray, texts: Texts, exits: tuple[int, ...]) -> Leaving:
    """Describe the oracle: every token leaves at the earliest exit that says what full depth says."""
    return leaving(agrees_NE.argmax(1), exits, agrees_NE, texts)
