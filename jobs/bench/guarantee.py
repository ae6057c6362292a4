"""`deed bench guarantee`: are the promises of `deed calibrate --risk` kept as often as they say?

Many samples are drawn from one population of losses; each chooses thresholds as the command does, and is checked on all
images that it did not draw. Without a source the populations are made up, of several shapes, the least favourable
included; with one, they are what a checkpoint's texts lose at every step of its own path. The last line of stdout is
one JSON object; exit code 1: a promise was broken too often.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from jobs.shared.row_arguments import add_row_arguments, row_config

if TYPE_CHECKING:
    from actors.training.guarantee.bounds import Judge
    from actors.training.guarantee.simulation import Population, Validity

_METHODS = ("learn_then_test", "betting", "conformal_risk_control")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="deed bench guarantee", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_row_arguments(parser, "conf/calibrate.yaml")
    parser.add_argument("--risk", type=float, default=0.02, help="(default: %(default)s)")
    parser.add_argument("--level", type=float, default=0.95, help="(default: %(default)s)")
    parser.add_argument("--sample-images", type=int, default=1000, help="of each draw (default: %(default)s)")
    parser.add_argument("--images", type=int, default=20_000, help="of a population (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=200, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    options = parser.parse_args(arguments)

    from actors.training.guarantee.bounds import Judge
    from actors.training.guarantee.simulation import populations, resample

    from_source = bool(options.sources or options.config)
    found = _recorded(options) if from_source else populations(options.risk, options.images, options.seed)
    print(f"risk {options.risk:g}, level {options.level:g}, {options.draws} draws of {options.sample_images} images")
    print(f"{'losses':<30} {'method':<22} {'broken':>12} {'mean loss':>9} {'way along':>9} {'at half':>8}")
    rows: list[dict[str, Any]] = []
    for population in found:
        for method in _METHODS:
            judge = Judge(method, options.risk, options.level, population.binary)
            seen = resample(population, judge, options.sample_images, options.draws, options.seed)
            rows.append(_row(population, judge, seen, options.sample_images))
            print(_line(rows[-1]), flush=True)
    print(json.dumps({"schema_version": 1, "risk": options.risk, "level": options.level, "rows": rows}))
    return 0 if all(row["holds"] for row in rows) else 1


def _recorded(options: argparse.Namespace) -> "Iterator[Population]":
    """Yield which texts of a checkpoint change at every step of a path made by other images."""
    from conf.checkpoint_files import read_model_config
    from conf.evaluation import CalibrateConfig
    from jobs.shared.converted_checkpoint import with_room_for_outputs

    options.set = [f"guarantee.risk={options.risk!r}", f"guarantee.sample_images={options.images}", *options.set]
    config = row_config(options, CalibrateConfig)
    engine = with_room_for_outputs(config.engine, read_model_config(config.checkpoint), config.checkpoint)

    import numpy as np

    from actors.model.checkpoint import load_checkpoint
    from actors.training.guarantee.certify import exits_to_use
    from actors.training.guarantee.path import path_of
    from actors.training.guarantee.recording import Recorded
    from actors.training.guarantee.sample import draw
    from actors.training.guarantee.simulation import Population

    checkpoint = load_checkpoint(config.checkpoint)
    exits, drawn = exits_to_use(config, checkpoint.config), draw(config, checkpoint, engine)
    tested = Recorded.of(drawn.tested, drawn.engine)
    path = path_of(Recorded.of(drawn.path, drawn.engine), exits)[1:]
    loss_VI = np.stack([tested.differs_I(exits, thresholds) for thresholds in path]).astype(float)
    leaving_V = np.array([tested.depths(exits, thresholds)[0] < exits[-1] for thresholds in path])
    yield Population(f"texts of {len(drawn.tested.images):,} images", loss_VI[leaving_V], True)


def _row(population: "Population", judge: "Judge", seen: "Validity", sample_images: int) -> dict[str, Any]:
    """Return the numbers of a method: way along is how many vectors were accepted, of those that keep the risk."""
    means_V = population.loss_VI.mean(axis=1)
    above = (means_V > judge.risk).nonzero()[0]
    good = int(above[0]) if len(above) else len(means_V)
    return {
        "losses": population.name, "method": judge.method, "binary": population.binary,
        "draws": len(seen.mean_D), "broken": seen.broken, "may_break": seen.may_break(judge),
        "mean_loss": float(seen.mean_D.mean()), "good_vectors": good,
        "way_along": float(seen.chosen_D.mean() / good) if good else None,
        "chance_at_half": judge.chance(sample_images, judge.risk / 2), "holds": seen.holds(judge),
    }  # fmt: skip


def _line(row: dict[str, Any]) -> str:
    in_mean = row["method"] == "conformal_risk_control"
    broken = f"{row['broken']}" if in_mean else f"{row['broken']} <= {row['may_break']}"
    way = "-" if row["way_along"] is None else f"{row['way_along']:.0%}"
    return (
        f"{row['losses']:<30} {row['method']:<22} {broken:>12} {row['mean_loss']:>9.3%} {way:>9} "
        f"{row['chance_at_half']:>8.2f}{'' if row['holds'] else '  BROKEN TOO OFTEN'}"
    )
