"""`deed bench engine`: the same images through every schedule, interleaved; medians of ratios to full depth.

Before anything is timed it prints the bound: what early exit could give at most if a decoder layer cost the same in
every batch, gates and the host cost nothing, and encoding stayed as it is. The last line of stdout is one JSON object.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actors.engine.engine import EngineStats
    from actors.engine.request import Request
    from actors.model.checkpoint import Checkpoint
    from conf.schema import EngineConfig

VARIANTS = ("full", "inplace", "consensus", "pool")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="deed bench engine", description=__doc__)
    parser.add_argument(
        "--config", required=True, help="YAML file with the fields of BenchConfig, e.g. conf/bench.yaml"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one field")
    options = parser.parse_args(arguments)

    from conf.bench import BenchConfig
    from conf.load import load_config

    config = load_config(options.config, options.set, BenchConfig)

    import torch

    from actors.engine.request import Request
    from actors.evaluation import first_samples
    from actors.model.checkpoint import load_checkpoint
    from actors.training.data import read_pixels
    from conf.schema import Schedule

    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    checkpoint = load_checkpoint(config.checkpoint)
    prompt_ids = checkpoint.codec.encode_prompt(config.prompt)
    samples = first_samples(config.shards, config.num_images)
    work = [
        Request(i, read_pixels(sample.jpeg, checkpoint.config.image_size), prompt_ids)
        for i, sample in enumerate(samples)
    ]
    results: list[dict[str, Any]] = []
    for num_slots in config.slots:
        engines = {
            name: config.engine.model_copy(update={"schedule": Schedule(name), "num_slots": num_slots})
            for name in VARIANTS
        }
        measure(checkpoint, engines["pool"], work[: min(16, len(work))])  # warm up
        rounds: list[dict[str, Measurement]] = []
        for number in range(config.repeats):
            order = VARIANTS if number % 2 == 0 else tuple(reversed(VARIANTS))
            rounds.append({name: measure(checkpoint, engines[name], work) for name in order})
            if number == 0:
                print(f"{num_slots} slots: bound {bound(rounds[0]['full'], rounds[0]['pool']):.2f}x of full depth")
        results += [summarise(name, num_slots, rounds) for name in VARIANTS]
        for row in results[-len(VARIANTS) :]:
            print(
                f"  {row['schedule']:<10} {row['sequences_per_s']:>7.1f} sequences/s  {row['ratio_to_full']:.2f}x "
                f"({row['ratio_min']:.2f} to {row['ratio_max']:.2f})  decode {row['decode_ratio_to_full']:.2f}x  "
                f"depth {row['mean_depth']:.2f}  encode {row['encode_share']:.0%}  gate {row['gate_share']:.0%}  "
                f"host {row['host_share']:.0%}  rows/visit {row['mean_rows_by_segment']}",
                flush=True,
            )
    print(json.dumps({"schema_version": 1, "weights_sha256": checkpoint.sha256, "num_images": len(work),
                      "threads": torch.get_num_threads(), "torch": torch.__version__, "rows": results}))  # fmt: skip
    return 0


class Measurement:
    """One pass over the work."""

    def __init__(self, wall_s: float, stats: "EngineStats", mean_depth: float, num_layers: int) -> None:
        self.wall_s, self.stats, self.mean_depth, self.num_layers = wall_s, stats, mean_depth, num_layers


def measure(checkpoint: "Checkpoint", engine_config: "EngineConfig", work: "Sequence[Request]") -> Measurement:
    """Run all work through a new engine; every request must come out once."""
    from actors.engine.engine import Engine

    engine = Engine(checkpoint.model, engine_config)
    engine.take_stats()
    start_s = time.perf_counter()
    for request in work:
        engine.add(request)
    done = []
    while engine.has_work():
        done += engine.step()
    wall_s = time.perf_counter() - start_s
    assert sorted(c.request_id for c in done) == sorted(r.request_id for r in work), "rows in must be rows out"
    layers = [layer for completion in done for layer in completion.exit_layers]
    return Measurement(wall_s, engine.take_stats(), sum(layers) / len(layers), checkpoint.config.decoder.num_layers)


def bound(full: Measurement, pool: Measurement) -> float:
    """Speedup if decoding cost only the layer-positions that just-in-time features need (suffix maxima of depth)."""
    exits = len(pool.stats.segment_positions)
    layers_per_segment = pool.num_layers / exits  # exact when exits are evenly spaced, as in the shipped checkpoint
    needed = sum(pool.stats.segment_positions) * layers_per_segment
    all_layers = full.stats.segment_positions[0] * pool.num_layers * pool.stats.num_tokens / full.stats.num_tokens
    decode_s = full.stats.decode_s
    return full.wall_s / (full.wall_s - decode_s + decode_s * needed / all_layers)


def summarise(name: str, num_slots: int, rounds: "Sequence[dict[str, Measurement]]") -> dict[str, Any]:
    """Medians over rounds; ratios are taken within a round, so that drift of the machine cancels."""
    ratios = [r["full"].wall_s / r[name].wall_s for r in rounds]
    decode = [_decode_s(r["full"]) / _decode_s(r[name]) for r in rounds]
    last = rounds[-1][name]
    stats = last.stats
    median_wall_s = statistics.median(r[name].wall_s for r in rounds)
    return {
        "schedule": name,
        "num_slots": num_slots,
        "sequences_per_s": stats.num_completed / median_wall_s,
        "ratio_to_full": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "decode_ratio_to_full": statistics.median(decode),
        "mean_depth": last.mean_depth,
        "encode_share": stats.encode_s / stats.busy_s,
        "decode_share": stats.decode_s / stats.busy_s,
        "gate_share": stats.gate_s / stats.busy_s,
        "host_share": stats.host_s / stats.busy_s,
        "mean_rows_by_segment": [
            round(rows / visits, 1) if visits else 0.0
            for rows, visits in zip(stats.segment_rows, stats.segment_visits, strict=True)
        ],
        "involuntary_exits": stats.involuntary_exits,
        "bound": bound(rounds[-1]["full"], rounds[-1]["pool"]),
    }


def _decode_s(measurement: Measurement) -> float:
    """Everything but encoding: segments, gates and the host's part."""
    return measurement.stats.busy_s - measurement.stats.encode_s
