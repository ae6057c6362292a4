"""The report as JSON: the numbers as they are, under a schema version."""

import math
from dataclasses import asdict
from typing import Any

from pipeline.report.build import Report
from pipeline.report.schema import SCHEMA_VERSION
from pipeline.text import json_text


def render_json(report: Report, *, generated_utc: str) -> str:
    """Unknown numbers are null, and so is what is not a number."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "generated_utc": generated_utc,
        "runs": [run.as_dict() for run in report.runs],
        "comparisons": [None if comparison is None else asdict(comparison) for comparison in report.comparisons],
    }
    return json_text(_finite(content), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
