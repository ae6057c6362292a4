"""`deed calibrate`: choose the exit thresholds of a checkpoint on validation shards and write them into it.

For every candidate risk the thresholds are read off teacher-forced confidences, then checked by really decoding; the
candidate that has the fewest layers computed and loses no more than the allowed points is kept.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.shared.job_arguments import add_config_arguments


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="deed calibrate", description=__doc__)
    add_config_arguments(parser, "CalibrateConfig")
    options = parser.parse_args(arguments)

    from conf.evaluation import CalibrateConfig
    from conf.load import load_config

    config = load_config(options.config, options.set, CalibrateConfig)

    from actors.training.evaluation import read_labelled
    from actors.training.thresholds import choose_thresholds, record_labelled, write_thresholds
    from jobs.evaluate import HEADER, print_row
    from pipeline.source.left_out import sentence

    labelled = read_labelled(config)
    if labelled.left_out:
        print(sentence(labelled.left_out, "not scored"), file=sys.stderr)
    exits = config.exits or labelled.checkpoint.config.exits
    recording = record_labelled(labelled, config.decoder_prefix)
    print(f"{len(recording.confidence_NE)} tokens of {len(labelled.samples)} images recorded at exits {list(exits)}")
    print(HEADER)
    chosen = choose_thresholds(labelled, recording, exits, config, print_row)
    if chosen is None:
        print(f"no candidate keeps within {config.max_points_lost} points of full depth; nothing is written")
        return 1
    best, thresholds = chosen
    path = write_thresholds(labelled.checkpoint, Path(config.checkpoint), thresholds)
    print(f"{best.label}: mean depth {best.mean_depth:.2f} of {exits[-1]}, {best.computed_depth:.2f} computed")
    print(f"thresholds written to {path}")
    return 0
