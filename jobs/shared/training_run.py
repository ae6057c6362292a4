"""A training run, from nothing or from a checkpoint: its trainer, and what is said at its end."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from conf.pretrained import PretrainedConfig
from conf.training import TrainConfig
from jobs.shared.training_reports import PretrainedReport, TrainReport

if TYPE_CHECKING:
    from actors.training.pretrained.trainer import PretrainedTrainer
    from actors.training.scratch.trainer import Trainer
    from actors.training.workers import Workers


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


def mark_in(config: TrainConfig | PretrainedConfig) -> str | None:
    """Return, after a run, why its checkpoint is marked; None where it is not, or there was nothing to lose."""
    from actors.training.pretrained.finish import mark_in_run

    return mark_in_run(Path(config.output)) if isinstance(config, PretrainedConfig) else None


def say_done(config: TrainConfig | PretrainedConfig) -> None:
    """Print where the checkpoint is."""
    hint = "" if isinstance(config, PretrainedConfig) else " (no thresholds yet: run deed calibrate)"
    print(f"checkpoint: {Path(config.output) / 'checkpoint'}{hint}")
