"""The audit in run.json -> its numbers in a report."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Promise:
    """What early exit was promised to lose at most, and how the bet against that stands."""

    method: str
    loss: str
    risk: float
    level: float | None
    observed: float  # when it was calibrated
    bound: float
    on_broken_promise: str
    wealth: float
    alarm_wealth: float
    images_to_see_double: int | None
    images_missing: int | None
    alarm: Mapping[str, Any] | None  # images, rows, utc


@dataclass(frozen=True)
class Audit:
    """Images decoded at full depth too; losses are in [0, 1]."""

    fraction: float
    loss: str
    promise: Promise | None  # None: nothing was promised
    images: int
    rows: int
    mean_loss: float | None
    low: float | None  # of a 95 % interval
    high: float | None
    images_after_fallback: int
    rows_after_fallback: int
    device_s: float
    device_share: float | None  # of the engines' busy time


def audit_of(record: Mapping[str, Any]) -> Audit | None:
    """Return what run.json says of the audit; None where nothing was audited, or an earlier version wrote it."""
    found = record.get("audit")
    if not found:
        return None
    promise = found.get("promise")
    known = {field.name: found.get(field.name) for field in fields(Audit)}
    return Audit(**{**known, "promise": None if promise is None else Promise(**_known(promise))})


def _known(promise: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: promise.get(field.name) for field in fields(Promise)}
