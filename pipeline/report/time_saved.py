"""The time that early exit saved against full depth: measured, else estimated, else the reason why nobody knows.

Layers are not time: every exit costs its head, positions that catch up are computed together and so for less than one
by one, and the encoder is not saved at all.
"""

from dataclasses import dataclass, replace

from pipeline.report.compare import Comparison
from pipeline.report.number_formats import UNKNOWN, count, share
from pipeline.report.report_schema import FullDepthEstimate, RunNumbers, is_full_depth

MEASURE = "deed report RUN --ab 200 measures it"
_ESTIMATED = f"some of the run's own visits were run through all layers too, for the time it takes; {MEASURE}"


@dataclass(frozen=True)
class Saving:
    """Shares are of what full depth takes. `value` is None where there is none or nobody knows, as `text` says."""

    value: float | None
    text: str
    basis: str  # in a few words, or the whole reason where there is no value
    detail: str = ""
    is_estimate: bool = False

    @property
    def note(self) -> str:
        return f"{self.basis}: {self.detail}" if self.detail else self.basis


@dataclass(frozen=True)
class TimeSaved:
    device: Saving  # of the whole device time, the encoder's included
    decoder: Saving


def time_saved(run: RunNumbers) -> TimeSaved:
    """Return what was measured on the same rows where anybody did, and the engines' own estimate where not."""
    if is_full_depth(run):
        return _both(Saving(None, "none", "this run is the full depth"))
    full, estimate = run.against_full_depth, run.full_depth_estimate
    device = _measured(full, full.device_time_saved, full.device_time_range) if full is not None else None
    decoder = _measured(full, full.decoder_time_saved, full.decoder_time_range) if full is not None else None
    if full is not None and decoder is not None and full.decoder_time_estimated is not None:
        own = f"{decoder.detail}; the engine's own estimate: {share(full.decoder_time_estimated)}"
        decoder = replace(decoder, detail=own)
    otherwise = _estimated(estimate) if estimate is not None else _both(_unknown(run))
    return TimeSaved(device or otherwise.device, decoder or otherwise.decoder)


def _both(saving: Saving) -> TimeSaved:
    return TimeSaved(saving, saving)


def _measured(full: Comparison, value: float | None, spread: tuple[float, float] | None) -> Saving | None:
    if value is None:
        return None
    detail = f"the same rows, against {full.other}"
    if spread is not None:
        detail += f"; {share(spread[0])} to {share(spread[1])} over the passes"
    return Saving(value, share(value), f"measured on {count(full.num_rows)} rows", detail)


def _estimated(estimate: FullDepthEstimate) -> TimeSaved:
    device, decoder = (
        Saving(value, f"about {100 * value:.0f} %", "estimated", detail, is_estimate=True)
        for value, detail in (
            (estimate.device_time_saved, _ESTIMATED),
            (estimate.decoder_time_saved, f"the encoder left out; {MEASURE}"),
        )
    )
    return TimeSaved(device, decoder)


def _unknown(run: RunNumbers) -> Saving:
    if not run.speed.segments:
        return Saving(None, UNKNOWN, f"the run left no engine statistics; {MEASURE}")
    if len(run.speed.segments) == 1:
        return Saving(None, "none", "no token could leave early: no exit's threshold can be reached")
    return Saving(None, UNKNOWN, f"its engines did not sample what full depth takes; {MEASURE}")
