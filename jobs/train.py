"""`deed train`: train a multi-exit model. Rerunning the same command continues where it stopped."""

import argparse
import signal
import sys
from collections.abc import Sequence

from jobs.shared.job_arguments import add_config_arguments


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="deed train", description=__doc__)
    add_config_arguments(parser, "TrainConfig, e.g. conf/train.yaml")
    options = parser.parse_args(arguments)

    from jobs.shared.training_run import make_trainer, read_training, say_done

    config = read_training(options.config, options.set)
    if config.workers.num_workers > 1:
        from jobs.shared.train_on_ray import train_on_ray

        train_on_ray(config)
    else:
        stopping = _stop_requests()
        trainer = make_trainer(config)
        print(trainer.opening)
        if not trainer.run(lambda: bool(stopping)):
            print("stopped; run the same command again to continue", file=sys.stderr)
            return 128 + stopping[0]
    say_done(config)
    return 0


def _stop_requests() -> list[int]:
    """Collect signals; the trainer finishes its step and saves before it ends."""
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda signal_number, _: received.append(signal_number))
    return received
