"""A training run of either mode: its configuration, its trainer, and what it prints and logs."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conf.frozen import FrozenConfig
from conf.load import load_config, read_mode
from conf.training import TrainConfig
from jobs.shared.training_log import TrainingLog
from pipeline.source.left_out import from_dicts, sentence

if TYPE_CHECKING:
    from actors.training.frozen.frozen import FrozenTrainer
    from actors.training.scratch.trainer import Trainer
    from actors.training.workers import Workers


def read_training(path: str, overrides: Sequence[str]) -> TrainConfig | FrozenConfig:
    """Return the configuration, by the schema of its mode."""
    if read_mode(path, overrides) == "frozen":
        return load_config(path, overrides, FrozenConfig)
    return load_config(path, overrides, TrainConfig)


def make_trainer(config: TrainConfig | FrozenConfig, workers: "Workers | None" = None) -> "Trainer | FrozenTrainer":
    """Return the trainer of a run where its last saved state left it; the first worker cuts the log back to there."""
    from actors.training.frozen.frozen import FrozenTrainer
    from actors.training.scratch.trainer import Trainer

    output = Path(config.output)
    report: TrainReport | FrozenReport
    trainer: Trainer | FrozenTrainer
    if isinstance(config, FrozenConfig):
        report = FrozenReport(output)
        trainer = FrozenTrainer(config, report, workers)
        if trainer.workers.leads and trainer.left_out:
            print(sentence(trainer.left_out, "not trained on"), file=sys.stderr)
    else:
        report = TrainReport(output)
        trainer = Trainer(config, report, workers)
    if trainer.workers.leads:
        report.log.rewind(trainer.step)
    return trainer


def say_done(config: TrainConfig | FrozenConfig) -> None:
    """Print where the checkpoint is."""
    hint = "" if config.mode == "frozen" else " (no thresholds yet: run deed calibrate)"
    print(f"checkpoint: {Path(config.output) / 'checkpoint'}{hint}")


class TrainReport:
    """Print one line per report and log its numbers."""

    def __init__(self, output: Path) -> None:
        self.log = TrainingLog(output)
        self._left_out: list[dict[str, Any]] = []
        self._started, self._first_step = time.monotonic(), -1

    def __call__(self, values: dict[str, Any]) -> None:
        if "left_out" in values:
            self._say_left_out(values)
            return
        step, kind = values["step"], "validation" if "validation" in values else "losses"
        numbers = values[kind]["token_accuracy_by_exit"] if kind == "validation" else values[kind]
        self.log.append([("train", step, kind, name, value) for name, value in numbers.items()], values)
        if kind == "validation":
            shown = "  ".join(f"{layer}: {value:.1%}" for layer, value in numbers.items())
            print(f"step {step:>6}  validation token accuracy by exit  {shown}", flush=True)
            return
        if self._first_step < 0:
            self._first_step = step
        done, left = step - self._first_step, values["total_steps"] - step
        eta = f"{(time.monotonic() - self._started) / done * left / 60:.0f} min left" if done else ""
        losses = "  ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in numbers.items())
        print(
            f"step {step:>6}/{values['total_steps']}  {losses}  "
            f"{values['images_per_s']:.1f} images/s  lr {values['lr']:.2e}  {eta}",
            flush=True,
        )

    def _say_left_out(self, values: dict[str, Any]) -> None:
        parts = values["left_out"]
        self.log.append(
            [("train", values["step"], "left_out", part["reason"], part["count"]) for part in parts], values
        )
        if parts != self._left_out:
            print(sentence(from_dicts(parts), "not trained on"), file=sys.stderr)
        self._left_out = parts


class FrozenReport:
    """Print every report and log its numbers."""

    def __init__(self, output: Path) -> None:
        self.log = TrainingLog(output)

    def __call__(self, values: dict[str, Any]) -> None:
        if "agreement" in values:
            names = ("mean_depth", "computed_depth", "equal_tokens", "equal_outputs")
            table = [
                (row["gate"], values["step"], values["agreement"], name, row[name])
                for row in values["rows"]
                for name in names
            ]
            for row in values["rows"]:
                print(
                    f"{values['agreement']:<7} gate {row['gate']:<12} mean depth {row['mean_depth']:.2f} "
                    f"(computed {row['computed_depth']:.2f})  equal to full depth: tokens {row['equal_tokens']:.1%}, "
                    f"outputs {row['equal_outputs']:.1%} of {row['num_images']}",
                    flush=True,
                )
            self.log.append(table, values)
            return
        if "full_depth_unchanged" in values:
            count = values["full_depth_unchanged"]
            print(f"full depth of the new checkpoint says the same of all {count} images to report on", flush=True)
            return
        kind = "validation" if "validation" in values else "losses"
        shown = "  ".join(f"{name} {value:.4f}" for name, value in values[kind].items())
        print(f"{values['stage']} step {values['step']:>6}  {kind}  {shown}", flush=True)
        table = [(values["stage"], values["step"], kind, name, value) for name, value in values[kind].items()]
        self.log.append(table, values)
