"""A training run, from nothing or from a checkpoint: its configuration, its trainer, and what is said at its end."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from conf.errors import UserError
from conf.load import load_config, read_values
from conf.pretrained import PretrainedConfig
from conf.training import TrainConfig
from jobs.shared.job_arguments import quoted
from jobs.shared.row_arguments import add_row_arguments, row_config
from jobs.shared.training_reports import PretrainedReport, TrainReport

if TYPE_CHECKING:
    from actors.training.pretrained.trainer import PretrainedTrainer
    from actors.training.scratch.trainer import Trainer
    from actors.training.workers import Workers

_FROM_A_CHECKPOINT = {"sources": "SOURCE", "target": "--target", "prompt": "--prompt"}


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `read_training` reads."""
    add_row_arguments(parser, "conf/deep-supervision.yaml", "run directory: state, log and the trained checkpoint")
    parser.add_argument(
        "--mode",
        choices=["deep_supervision", "frozen"],
        help="deep_supervision (the default): the model itself learns to say things early; frozen: none of its own "
        "weights moves",
    )


def read_training(options: argparse.Namespace) -> TrainConfig | PretrainedConfig:
    """Return the configuration that the parsed arguments ask for: of training from the checkpoint that they or the file
    name, else from nothing."""
    if options.mode is not None:
        options.set = [f"mode={options.mode}", *options.set]
    if options.config is None or options.checkpoint is not None:
        return row_config(options, PretrainedConfig)
    values = read_values(options.config, options.set)
    if values.get("mode") == "frozen" or "checkpoint" in values:
        return row_config(options, PretrainedConfig)
    for name, shown in _FROM_A_CHECKPOINT.items():
        if getattr(options, name):
            raise UserError(f"{shown} is for training from a checkpoint: name it, --checkpoint FOLDER")
    output = [] if options.out is None else [f"output={quoted(options.out)}"]
    return load_config(options.config, [*output, *options.set], TrainConfig)


def make_trainer(
    config: TrainConfig | PretrainedConfig, workers: "Workers | None" = None, runs: Sequence[str | None] = ()
) -> "Trainer | PretrainedTrainer":
    """Return the trainer of a run where its last saved state left it; the first worker cuts the log back to there.

    `runs`: for each task of training from a checkpoint, the run whose texts it learns (jobs/shared/own_texts.py).
    """
    from actors.training.pretrained.trainer import PretrainedTrainer
    from actors.training.rows.target_runs import known_shards
    from actors.training.scratch.trainer import Trainer

    report: TrainReport | PretrainedReport
    trainer: Trainer | PretrainedTrainer
    if isinstance(config, PretrainedConfig):
        report = PretrainedReport(Path(config.output))
        trainer = PretrainedTrainer(config, report, workers, runs, known_shards(runs))
    else:
        report = TrainReport(Path(config.output))
        trainer = Trainer(config, report, workers)
    if trainer.workers.leads:
        report.log.rewind(trainer.step)
    return trainer


def mark_of(trainer: "Trainer | PretrainedTrainer") -> str | None:
    """Return, after a run, why its checkpoint is marked; None where it is not, or there was nothing to lose."""
    from actors.training.scratch.trainer import Trainer

    return None if isinstance(trainer, Trainer) else trainer.marked


def say_done(config: TrainConfig | PretrainedConfig) -> None:
    """Print where the checkpoint is."""
    hint = "" if isinstance(config, PretrainedConfig) else " (no thresholds yet: run deed calibrate)"
    print(f"checkpoint: {Path(config.output) / 'checkpoint'}{hint}")
