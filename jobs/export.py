"""`deed export RUN --to FORM --out PATH`: the results of a run in the form another tool reads, each row once."""

import argparse
import sys
from collections.abc import Sequence

FORMS = ("webdataset", "coco", "coco-results", "vqa", "jsonl", "csv", "imagefolder")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="deed export", description=__doc__)
    parser.add_argument("run", help="output directory or URL of a run")
    parser.add_argument("--to", required=True, choices=FORMS, help="form of the export")
    parser.add_argument("--out", required=True, help="file (webdataset, imagefolder: folder) or URL to write")
    parser.add_argument("--columns", help="jsonl, csv: columns, separated by commas (default: all)")
    parser.add_argument("--id-column", help="coco, vqa: column with the image's number, e.g. src_image_id")
    parser.add_argument("--question-id-column", help="vqa: column with the question's number, e.g. src_question_id")
    parser.add_argument("--suffix", default="deed", help="webdataset: key.SUFFIX.txt (default: %(default)s)")
    parser.add_argument(
        "--neutralise-formulas",
        action="store_true",
        help="csv: put a ' in front of texts that a spreadsheet would run, such as =1+1 (default: left as it is)",
    )
    options = parser.parse_args(arguments)

    from pipeline.exports import Form, Options, export
    from pipeline.exports.rows import Published
    from pipeline.left_out import in_words

    published = Published(options.run)
    if not published.is_complete:
        print("deed export: this run is not complete; only what is published so far is exported", file=sys.stderr)
    columns = tuple(options.columns.split(",")) if options.columns else None
    chosen = Options(
        columns, options.id_column, options.question_id_column, options.suffix, options.neutralise_formulas
    )
    exported = export(published, Form(options.to), options.out, chosen)
    for part in exported.left_out:
        print(f"deed export: not exported: {in_words(part)}", file=sys.stderr)
    for note in exported.notes:
        print(f"deed export: {note}", file=sys.stderr)
    print(f"{exported.rows} rows of {len(published.shards)} shards written to {options.out}")
    return 0
