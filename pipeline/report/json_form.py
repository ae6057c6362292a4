"""The report as JSON: the numbers as they are, under a schema version."""

from dataclasses import asdict

from pipeline.report.build import Report
from pipeline.report.report_schema import SCHEMA_VERSION
from pipeline.text import finite, json_text


def render_json(report: Report, *, generated_utc: str) -> str:
    """Unknown numbers are null, and so is what is not a number."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "generated_utc": generated_utc,
        "runs": [run.as_dict() for run in report.runs],
        "comparisons": [None if comparison is None else asdict(comparison) for comparison in report.comparisons],
    }
    return json_text(finite(content), indent=2, allow_nan=False) + "\n"
