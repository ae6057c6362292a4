"""Two runs over the same rows: how often they say the same, and what the difference costs."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.metrics import wilson_interval


@dataclass(frozen=True)
class SharedRow:
    """What a comparison needs of one row of a run."""

    text: str | None
    num_layers_run: int  # summed over the steps
    device_s: float | None


@dataclass(frozen=True)
class Comparison:
    """A run against another one, on a fair sample of the rows both have."""

    other: str  # name of the other run
    num_rows: int
    equal_texts: float  # share
    equal_low: float  # its 95 % interval
    equal_high: float
    layers_saved: float | None  # share of the other's decoder layers
    device_time_saved: float | None  # share of the other's attributed device seconds


def compare_rows(other: str, pairs: Sequence[tuple[SharedRow, SharedRow]]) -> Comparison | None:
    """(our row, their row) pairs -> agreement and saving; None without a shared row."""
    if not pairs:
        return None
    equal = sum(ours.text == theirs.text for ours, theirs in pairs)
    low, high = wilson_interval(equal, len(pairs))
    timed = [(a.device_s, b.device_s) for a, b in pairs if a.device_s is not None and b.device_s is not None]
    our_layers, their_layers = sum(a.num_layers_run for a, _ in pairs), sum(b.num_layers_run for _, b in pairs)
    their_s = sum(theirs for _, theirs in timed)
    return Comparison(
        other=other,
        num_rows=len(pairs),
        equal_texts=equal / len(pairs),
        equal_low=low,
        equal_high=high,
        layers_saved=1 - our_layers / their_layers if their_layers else None,
        device_time_saved=1 - sum(ours for ours, _ in timed) / their_s if their_s else None,
    )
