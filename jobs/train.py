"""`deed train`: exits for a model that exists, or a multi-exit model from nothing.

Rerunning the same command continues where it stopped.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs.shared.job_arguments import quoted
from jobs.shared.row_arguments import add_row_arguments, row_config

if TYPE_CHECKING:
    from conf.pretrained import PretrainedConfig
    from conf.training import TrainConfig

SUCCESS, MARKED = 0, 8  # the model lost more than it was allowed to
_FROM_A_CHECKPOINT = {"sources": "SOURCE", "target": "--target", "prompt": "--prompt"}


def main(arguments: Sequence[str]) -> int:
    return train(read_training(make_parser().parse_args(arguments)))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="deed train", description=__doc__)
    add_row_arguments(parser, "conf/deep-supervision.yaml", "run directory: state, log and the trained checkpoint")
    parser.add_argument(
        "--mode",
        choices=["deep_supervision", "frozen"],
        help="deep_supervision (the default): the model itself learns to say things early; frozen: none of its own "
        "weights moves",
    )
    return parser


def read_training(options: argparse.Namespace) -> "TrainConfig | PretrainedConfig":
    """Return the configuration that the parsed arguments ask for: of training from the checkpoint that they or the file
    name, else from nothing."""
    from conf.errors import UserError
    from conf.load import load_config, read_values
    from conf.pretrained import PretrainedConfig
    from conf.training import TrainConfig

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


def train(config: "TrainConfig | PretrainedConfig") -> int:
    """Write the texts to learn from where there are no labels, then train; gives the exit code."""
    from conf.pretrained import PretrainedConfig
    from jobs.caption import Stopped
    from jobs.shared.own_texts import TextsStopped, own_runs
    from jobs.shared.training_run import make_trainer, mark_in, say_done

    stopping = _stop_requests()
    try:
        runs = own_runs(config) if isinstance(config, PretrainedConfig) else ()
        if stopping:
            return _stopped(stopping[0])
        if config.workers.num_workers > 1:
            from jobs.shared.train_on_ray import train_on_ray

            train_on_ray(config, runs)
        else:
            trainer = make_trainer(config, runs=runs)
            print(trainer.opening)
            if not trainer.run(lambda: bool(stopping)):
                return _stopped(stopping[0])
    except TextsStopped as ended:
        return ended.exit_code
    except Stopped as stop:
        return _stopped(stop.exit_code - 128)
    mark = mark_in(config)
    say_done(config)
    if mark is not None:
        print(f"deed train: {mark}", file=sys.stderr)
    return SUCCESS if mark is None else MARKED


def _stopped(signal_number: int) -> int:
    name = signal.Signals(signal_number).name
    print(f"deed train: stopped by {name}; run the same command again to continue", file=sys.stderr)
    return 128 + signal_number


def _stop_requests() -> list[int]:
    """Collect signals; the trainer finishes its step and saves before it ends."""
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda signal_number, _: received.append(signal_number))
    return received
