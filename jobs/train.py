"""`deed train`: train a multi-exit model. Rerunning the same command continues where it stopped."""

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.training_log import TrainingLog


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="deed train", description=__doc__)
    parser.add_argument(
        "--config", required=True, help="YAML file with the fields of TrainConfig, e.g. conf/train.yaml"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one field")
    options = parser.parse_args(arguments)

    from conf.load import load_config, read_mode
    from conf.training import TrainConfig

    if read_mode(options.config, options.set) == "frozen":
        from jobs.train_frozen import train_frozen

        return train_frozen(options.config, options.set)
    config = load_config(options.config, options.set, TrainConfig)

    if config.workers.num_workers > 1:
        from jobs.train_on_ray import train_on_ray

        return train_on_ray(config)

    from actors.training.trainer import Trainer

    output = Path(config.output)
    stopping = _stop_requests()
    report = TrainReport(output)
    trainer = Trainer(config, report)
    report.log.rewind(trainer.step)
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    print(
        f"{parameters / 1e6:.1f} M parameters, exits {list(trainer.model_config.exits)}, on {trainer.device}, "
        f"{len(trainer.corpus.shards)} shards, from step {trainer.step} of {config.optimizer.total_steps}"
    )
    if not trainer.run(lambda: bool(stopping)):
        print("stopped; run the same command again to continue", file=sys.stderr)
        return 128 + stopping[0]
    print(f"checkpoint: {output / 'checkpoint'} (no thresholds yet: run deed calibrate)")
    return 0


def _stop_requests() -> list[int]:
    """The signals received so far; the trainer finishes its step and saves before it ends."""
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda signal_number, _: received.append(signal_number))
    return received


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
        from pipeline.left_out import from_dicts, sentence

        parts = values["left_out"]
        self.log.append(
            [("train", values["step"], "left_out", part["reason"], part["count"]) for part in parts], values
        )
        if parts != self._left_out:
            print(sentence(from_dicts(parts), "not trained on"), file=sys.stderr)
        self._left_out = parts
