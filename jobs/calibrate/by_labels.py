"""`deed calibrate` by rows of a source that says what is right."""

from pathlib import Path

from conf.evaluation import CalibrateConfig
from jobs.shared.row_arguments import say_what_is_left_out


def calibrate(config: CalibrateConfig) -> int:
    """Choose thresholds and write them; return the exit code."""
    from actors.training.evaluation import read_labelled
    from actors.training.thresholds import check_exits, choose_thresholds, record_labelled, write_thresholds
    from jobs.evaluate import HEADER, print_row

    labelled = read_labelled(config)
    say_what_is_left_out(labelled.left_out, "not scored")
    exits = config.exits or labelled.checkpoint.config.exits
    check_exits(exits, labelled.checkpoint.config, config.checkpoint)
    recording = record_labelled(labelled, config.decoder_prefix)
    print(f"{len(recording.confidence_NE)} tokens of {len(labelled.images)} images recorded at exits {list(exits)}")
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
