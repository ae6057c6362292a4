"""JSONL and CSV: one line for each result row. In CSV, lists are JSON and nothing is an empty cell."""

import csv
import io
import json
from typing import Any

from pipeline.exports import Options
from pipeline.exports.rows import Published, whole_file


def write_jsonl(published: Published, out: str, options: Options) -> int:
    columns, count = _columns(published, options), 0
    with whole_file(out) as stream:
        for row in published.all_rows(columns):
            stream.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            count += 1
    return count


def write_csv(published: Published, out: str, options: Options) -> int:
    columns, count = _columns(published, options), 0
    with whole_file(out) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        for row in published.all_rows(columns):
            writer.writerow([_cell(row[column]) for column in columns])
            count += 1
        text.detach()
    return count


def _columns(published: Published, options: Options) -> tuple[str, ...]:
    if options.columns is None:
        return published.columns
    published.check_columns(options.columns)
    return options.columns


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
