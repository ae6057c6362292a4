"""`deed train` with mode=frozen: train the exits of a model that stays as it is, on images without labels."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.training_log import TrainingLog


def train_frozen(path: str, overrides: Sequence[str]) -> int:
    """Run the stages; 0 when done, 128 + signal when stopped."""
    from conf.frozen import FrozenConfig
    from conf.load import load_config

    config = load_config(path, overrides, FrozenConfig)

    if config.workers.num_workers > 1:
        from jobs.train_on_ray import train_on_ray

        return train_on_ray(config)

    from actors.training.frozen import FrozenTrainer
    from jobs.train import _stop_requests
    from pipeline.left_out import sentence

    stopping = _stop_requests()
    report = FrozenReport(Path(config.output))
    trainer = FrozenTrainer(config, report)
    report.log.rewind(trainer.step)
    print(
        f"{trainer.num_trained / 1e3:.1f} k values train, exits {list(trainer.checkpoint.config.exits)}, "
        f"on {trainer.device}, {len(trainer.training.examples)} images to learn from, "
        f"{len(trainer.validation.examples)} to choose thresholds by, {len(trainer.test.examples)} to report on, "
        f"from step {trainer.step}"
    )
    if trainer.left_out:
        print(sentence(trainer.left_out, "not trained on"), file=sys.stderr)
    if not trainer.run(lambda: bool(stopping)):
        print("stopped; run the same command again to continue", file=sys.stderr)
        return 128 + stopping[0]
    print(f"checkpoint: {Path(config.output) / 'checkpoint'}")
    return 0


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
