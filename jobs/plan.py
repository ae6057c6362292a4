"""`deed plan`: what a run would do, how long it would take and what it would cost; starts nothing, not even Ray."""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.shared.job_arguments import add_job_arguments, job_config
from jobs.shared.sidecar_arguments import add_sidecar_flag, asked_sidecars
from jobs.status import left_out_lines

if TYPE_CHECKING:
    from pipeline.output.preview import Preview

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def main(arguments: Sequence[str]) -> int:
    options = make_parser().parse_args(arguments)
    config = job_config(options)
    asked_sidecars(options, config)

    from jobs.caption import with_checkpoint
    from pipeline.ops.cluster import fit_resources
    from pipeline.output.preview import preview

    cpus = max(2, os.cpu_count() or 1) if options.cpus is None else options.cpus
    gpus = local_gpus() if options.gpus is None else options.gpus
    fit = fit_resources(config, cpus, gpus)
    plan = preview(*with_checkpoint(config), fit, count_all=options.count, like=options.like)
    if options.json:
        print(json.dumps({**asdict(plan), "samples_left": plan.samples_left}, indent=2))
    else:
        print("\n".join(describe(plan, config.cost.price_per_hour is not None, fit.min_actors, fit.max_actors)))
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="deed plan", description=__doc__)
    add_job_arguments(parser)
    add_sidecar_flag(parser)  # so that it takes the arguments of deed caption; nothing is written
    parser.add_argument("--count", action="store_true", help="open every shard to count its samples; slow on many")
    parser.add_argument(
        "--like", metavar="OUTPUT", help="take speed and sample sizes from this run, a trial for example"
    )
    parser.add_argument("--cpus", type=float, help="CPUs of the cluster (default: those of this machine)")
    parser.add_argument("--gpus", type=float, help="GPUs of the cluster (default: those of this machine)")
    parser.add_argument("--json", action="store_true", help="the same as one JSON object")
    return parser


def describe(plan: "Preview", has_price: bool, min_actors: int, max_actors: int) -> list[str]:
    counted = f"{plan.samples_counted:,} in {plan.shards_counted:,} shards"
    if plan.samples_estimated is None:
        samples = "unknown; --count opens every shard"
    elif plan.shards_counted == plan.shards:
        samples = f"{plan.samples_counted:,} in {plan.chunks_counted:,} chunks"
    else:
        samples = f"about {plan.samples_estimated:,.0f}, {counted} counted"
    pool = f"{plan.num_actors:,}" + ("" if min_actors == max_actors else f" (from {min_actors:,} to {max_actors:,})")
    size = [f"{plan.size_rows:,} rows"] if plan.size_rows else []
    if plan.size_bytes or not size:
        size.insert(0, _size(plan.size_bytes))
    lines = [
        f"{plan.output}: " + (f"held by {plan.held_by}" if plan.held_by else "nothing is running"),
        f"  shards    {plan.shards:,} ({', '.join(size)})",
        f"  samples   {samples}",
        f"  done      {plan.shards_published:,} shards published, {plan.shards_started:,} begun "
        f"({plan.chunks_staged:,} chunks staged), {plan.samples_done:,} samples in all",
    ]
    if plan.shards_retried:
        lines.append(f"  again     {plan.shards_retried:,} published shards, for their failed rows")
    lines.extend(left_out_lines(plan.left_out))
    lines.append(f"  actors    {pool}, with {plan.actor_cpus:g} CPUs and {plan.actor_gpus:g} GPUs each")
    if plan.speed is None:
        why = "no run with results to measure by; make a trial run and name it by --like"
        return [*lines, f"  time      unknown: {why}", "  cost      unknown"]
    measured = f"at {plan.speed.samples_per_actor_s:.3g} samples/s for each actor, as in {plan.speed.output}"
    if plan.time_s is None:
        return [*lines, f"  time      unknown: no sample count, {measured}", "  cost      unknown"]
    lines.append(f"  time      about {_duration(plan.time_s)}, {measured}")
    unknown = "unknown: set cost.price_per_hour" if not has_price else "unknown"
    lines.append(f"  cost      {unknown if plan.cost is None else f'about {plan.cost:,.2f} {plan.currency}'}")
    return lines


def local_gpus() -> int:
    """Return the NVIDIA GPUs of this machine that Ray would find and be allowed to use."""
    folder = Path("/proc/driver/nvidia/gpus")
    found = len(list(folder.iterdir())) if folder.is_dir() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return found
    return min(found, len([name for name in visible.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]))


def _size(size_bytes: float) -> str:
    for unit in _UNITS[:-1]:
        if size_bytes < 1000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.3g} {_UNITS[-1]}"


def _duration(time_s: float) -> str:
    if time_s < 90:
        return f"{time_s:.0f} s"
    minutes = time_s / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
