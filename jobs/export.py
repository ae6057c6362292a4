"""`deed export RUN --to FORM --out PATH`: the results of a run in the form another tool reads, each row once.

`--to txt` writes a caption file beside each image; with --out, into another folder.
"""

import argparse
import sys
from collections.abc import Sequence

from conf.errors import UserError
from jobs.shared.sidecar_arguments import add_sidecar_arguments, say_what_is_missing, sidecar_options


def main(arguments: Sequence[str]) -> int:
    from pipeline.exports import Form, Options, SidecarOptions, export
    from pipeline.exports.rows import Published

    parser = argparse.ArgumentParser(prog="deed export", description=__doc__)
    parser.add_argument("run", help="output directory or URL of a run")
    parser.add_argument("--to", required=True, choices=[form.value for form in Form], help="form of the export")
    parser.add_argument("--out", help="file (webdataset, imagefolder: folder) or URL to write; txt: another folder")
    parser.add_argument("--columns", help="jsonl, csv: columns, separated by commas (default: all)")
    parser.add_argument("--id-column", help="coco, vqa: column with the image's number, e.g. src_image_id")
    parser.add_argument("--question-id-column", help="vqa: column with the question's number, e.g. src_question_id")
    parser.add_argument("--extension", default=".txt", help="txt: suffix of the files (default: %(default)s)")
    add_sidecar_arguments(parser, only_if="txt", suffix_help="webdataset: key.SUFFIX.txt (default: deed); ")
    parser.add_argument(
        "--neutralise-formulas",
        action="store_true",
        help="csv: put a ' in front of texts that a spreadsheet would run, such as =1+1 (default: left as it is)",
    )
    options = parser.parse_args(arguments)

    if options.out is None and options.to != "txt":
        raise UserError(f"say where the export goes, for example --out exports/{options.to}")

    published = Published(options.run)
    if not published.is_complete:
        print("deed export: this run is not complete; only what is published so far is exported", file=sys.stderr)
    columns = tuple(options.columns.split(",")) if options.columns else None
    chosen = Options(
        columns,
        options.id_column,
        options.question_id_column,
        "deed" if options.suffix is None else options.suffix,
        options.neutralise_formulas,
        sidecar_options(options, options.extension) or SidecarOptions(),
    )
    exported = export(published, Form(options.to), options.out, chosen)
    say_what_is_missing(exported, "deed export")
    print(exported.summary or f"{exported.rows} rows of {len(published.shards)} shards written to {options.out}")
    return 0
