"""JSONL and CSV: one line for each result row. Times are ISO 8601, decimals text, bytes base64; NaN is its name.

In CSV nested values are JSON, and nothing is an empty cell. Lines end in CR LF, which is what makes the writer quote
both characters inside a cell.
"""

import csv
import io
import json
from typing import Any

from pipeline.exports.options import Exported, Options
from pipeline.exports.rows import Published, json_bytes, whole_file
from pipeline.source.source_types import to_json

_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")  # spreadsheets take these for its beginning, full-width ones too


def write_jsonl(published: Published, out: str, options: Options) -> Exported:
    columns, count = _columns(published, options), 0
    with whole_file(out) as stream:
        for row in published.all_rows(columns):
            stream.write(json_bytes(to_json(row)) + b"\n")
            count += 1
    return Exported(count)


def write_csv(published: Published, out: str, options: Options) -> Exported:
    columns, count, live = _columns(published, options), 0, 0
    with whole_file(out) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
        writer = csv.writer(text)
        writer.writerow(columns)
        for row in published.all_rows(columns):
            cells = [row[column] for column in columns]
            formulas = sum(map(_is_formula, cells))
            live += formulas
            if formulas and options.neutralise_formulas:
                cells = [f"'{cell}" if _is_formula(cell) else cell for cell in cells]
            writer.writerow(map(_cell, cells))
            count += 1
        text.detach()
    if not live:
        return Exported(count)
    if options.neutralise_formulas:
        return Exported(count, notes=(f"{live} cells that begin like a formula have a ' in front",))
    return Exported(
        count,
        notes=(
            f"{live} cells begin like a formula, and a spreadsheet would run them: --neutralise-formulas puts a ' in "
            "front of each",
        ),
    )


def _columns(published: Published, options: Options) -> tuple[str, ...]:
    if options.columns is None:
        return published.columns
    published.check_columns(options.columns)
    return options.columns


def _is_formula(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(_FORMULA)


def _cell(value: Any) -> Any:
    plain = to_json(value)
    return json.dumps(plain, ensure_ascii=False) if isinstance(plain, list | dict) else plain
