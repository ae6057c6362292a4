"""`deed calibrate`: choose the exit thresholds of a checkpoint, and write them into it.

With --risk: for a promise about all images of the source, tested on a random sample of them, without labels.

deed calibrate ./photos --checkpoint runs/trained/checkpoint --risk 0.02

Without: by rows of the source that say what is right. For every candidate risk the thresholds are read off
teacher-forced confidences, then checked by really decoding; the candidate that has the fewest layers computed and loses
no more than the allowed points is kept.
"""

import argparse
from collections.abc import Sequence

from jobs.shared.row_arguments import add_row_arguments, row_config


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="deed calibrate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_row_arguments(
        parser, "conf/calibrate.yaml", "file that the guarantee goes to, the checkpoint stays as it is (with --risk)"
    )
    parser.add_argument(
        "--risk",
        type=float,
        metavar="SHARE",
        help="promise that texts of at most this share of all images are not full depth's, with probability 0.95; "
        "other losses, levels and methods: --set guarantee.loss=..., .level, .method",
    )
    options = parser.parse_args(arguments)
    if options.risk is not None:
        options.set = [f"guarantee.risk={options.risk!r}", *options.set]

    from conf.evaluation import CalibrateConfig

    config = row_config(options, CalibrateConfig)
    if config.guarantee.risk is None:
        from jobs.calibrate.by_labels import calibrate
    else:
        from jobs.calibrate.promised import calibrate
    return calibrate(config)
