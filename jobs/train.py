"""`deed train`: exits for a model that exists, or a multi-exit model from nothing.

Rerunning the same command continues where it stopped.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conf.pretrained import PretrainedConfig
    from conf.training import TrainConfig

SUCCESS, MARKED = 0, 8  # the model lost more than it was allowed to


def main(arguments: Sequence[str]) -> int:
    from jobs.shared.training_run import add_training_arguments, read_training

    parser = argparse.ArgumentParser(prog="deed train", description=__doc__)
    add_training_arguments(parser)
    return train(read_training(parser.parse_args(arguments)))


def train(config: "TrainConfig | PretrainedConfig") -> int:
    """Write the texts to learn from where there are no labels, then train; gives the exit code."""
    from conf.pretrained import PretrainedConfig
    from jobs.caption import Stopped
    from jobs.shared.own_texts import TextsStopped, own_runs
    from jobs.shared.training_run import make_trainer, mark_of, say_done

    stopping = _stop_requests()
    try:
        runs = own_runs(config) if isinstance(config, PretrainedConfig) else ()
        if stopping:
            return _stopped(stopping[0])
        if config.workers.num_workers > 1:
            from jobs.shared.train_on_ray import train_on_ray

            mark = train_on_ray(config, runs)
        else:
            trainer = make_trainer(config, runs=runs)
            print(trainer.opening)
            if not trainer.run(lambda: bool(stopping)):
                return _stopped(stopping[0])
            mark = mark_of(trainer)
    except TextsStopped as ended:
        return ended.exit_code
    except Stopped as stop:
        return _stopped(stop.exit_code - 128)
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
