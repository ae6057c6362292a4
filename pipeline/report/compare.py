"""Two runs over the same rows: how often they say the same, and what the difference costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.metrics.intervals import wilson_interval


@dataclass(frozen=True)
class SharedRow:
    """What a comparison needs of one row of a run."""

    text: str | None
    num_layers_run: int | None  # computed, summed over the steps (pipeline.report.work); None if unknown
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
    device_time_range: tuple[float, float] | None = None  # lowest and highest saving of repeated measurements
    decoder_time_saved: float | None = None  # share of the other's decoder seconds, where measured
    decoder_time_range: tuple[float, float] | None = None
    decoder_time_estimated: float | None = None  # what the engine made of the same rows, by its own estimate
    equal_tokens: float | None = None  # share of tokens that are equal at equal positions, where counted


def compare_rows(other: str, pairs: Sequence[tuple[SharedRow, SharedRow]]) -> Comparison | None:
    """(our row, their row) pairs -> agreement and saving; None without a shared row."""
    if not pairs:
        return None
    equal = sum(ours.text == theirs.text for ours, theirs in pairs)
    timed = [(a.device_s, b.device_s) for a, b in pairs if a.device_s is not None and b.device_s is not None]
    counted = [
        (a.num_layers_run, b.num_layers_run) for a, b in pairs if None not in (a.num_layers_run, b.num_layers_run)
    ]
    layers = sum(ours or 0 for ours, _ in counted), sum(theirs or 0 for _, theirs in counted)
    their_s = sum(theirs for _, theirs in timed)
    return _comparison(other, len(pairs), equal, layers, (sum(ours for ours, _ in timed), their_s))


def recorded_comparison(sample: Mapping[str, Any] | None) -> Comparison | None:
    """Return a sample of the run decoded both ways (`deed report RUN --ab N`), as full_depth_sample.json holds it.

    Its keys: rows, equal_texts (rows of equal text), layers_computed, layers_computed_full, device_s, device_s_full,
    passes; of each pass the seconds, and since decoder time is measured also decoder_s, decoder_s_full and
    decoder_s_estimated, full depth's by the engine's own estimate.
    """
    if not sample or not sample.get("rows"):
        return None
    layers = sample.get("layers_computed") or 0, sample.get("layers_computed_full") or 0
    device_s = sample.get("device_s") or 0.0, sample.get("device_s_full") or 0.0
    passes = sample.get("passes") or ()
    return replace(
        _comparison("full depth", sample["rows"], sample["equal_texts"], layers, device_s),
        device_time_range=_range(passes, "device_s", "device_s_full"),
        decoder_time_saved=_saved(passes, "decoder_s", "decoder_s_full"),
        decoder_time_range=_range(passes, "decoder_s", "decoder_s_full"),
        decoder_time_estimated=_saved(passes, "decoder_s", "decoder_s_estimated"),
        equal_tokens=sample["equal_tokens"] / sample["tokens"] if sample.get("tokens") else None,
    )


def _saved(passes: Sequence[Mapping[str, float | None]], part: str, whole: str) -> float | None:
    """Return the saving over all passes; None where some do not know."""
    parts, wholes = ([one.get(name) or 0.0 for one in passes] for name in (part, whole))
    return 1 - sum(parts) / sum(wholes) if wholes and all(wholes) else None


def _range(passes: Sequence[Mapping[str, float | None]], part: str, whole: str) -> tuple[float, float] | None:
    """Return the lowest and the highest saving; None of less than two passes."""
    savings = [saved for one in passes if (saved := _saved([one], part, whole)) is not None]
    return (min(savings), max(savings)) if len(savings) > 1 else None


def _comparison(
    other: str, num_rows: int, num_equal: int, layers: tuple[int, int], device_s: tuple[float, float]
) -> Comparison:
    low, high = wilson_interval(num_equal, num_rows)
    return Comparison(
        other=other,
        num_rows=num_rows,
        equal_texts=num_equal / num_rows,
        equal_low=low,
        equal_high=high,
        layers_saved=1 - layers[0] / layers[1] if layers[1] else None,
        device_time_saved=1 - device_s[0] / device_s[1] if device_s[1] else None,
    )
