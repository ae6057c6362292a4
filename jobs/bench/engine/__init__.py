"""`deed bench engine`: our engine against itself without exits and against others, held against what is possible.

First come the rates of this machine at each model's shapes and a forecast of the time; then, for every cell, medians of
ratios with their spread, and the bound. Each variant runs in a process of its own; rounds interleave. Rows are appended
to `results`, so that slices add up (--set models=[...] --set slots=[...]); --render makes tables and a chart of them.
The last line of stdout is one JSON object.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.shared.job_arguments import add_config_arguments

if TYPE_CHECKING:
    from conf.bench import BenchConfig, BenchModel
    from jobs.bench.engine.bound import Rates
    from jobs.bench.engine.cells import Cell
    from jobs.bench.engine.measure import Team
    from jobs.bench.engine.result_rows import Row

_SETUP_S = 6.0  # of a variant in a cell: starting, loading, running once; seen on a small machine


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="deed bench engine", description=__doc__)
    add_config_arguments(parser, "BenchConfig", "conf/bench.yaml")
    parser.add_argument("--forecast", action="store_true", help="say what would be measured and how long, then stop")
    parser.add_argument("--render", metavar="FILE.md", help="make tables and a chart of the results file, then stop")
    options = parser.parse_args(arguments)

    from conf.bench import BenchConfig
    from conf.load import load_config

    config = load_config(options.config, options.set, BenchConfig)
    if options.render:
        from jobs.bench.engine.results_page import render

        return render(Path(config.results), Path(options.render))
    return bench(config, " ".join(["deed bench engine", *arguments]), forecast_only=options.forecast)


def bench(config: "BenchConfig", command: str, *, forecast_only: bool = False) -> int:
    from jobs.bench.engine.cells import plan
    from jobs.bench.engine.measure import team
    from jobs.bench.engine.origin import origin
    from jobs.bench.engine.printed import duration, forecast_s, rates_lines
    from jobs.bench.engine.result_rows import SCHEMA_VERSION
    from jobs.bench.engine.worker import PROBE

    cells = plan(config)
    models = list(dict.fromkeys(cell.model for cell in cells))
    num_threads = config.num_threads or len(os.sched_getaffinity(0))
    source = origin(command, num_threads, config.seed, config.dtype)
    print(
        f"{source['hardware']['cpu']}, {num_threads} threads, commit {source['commit']}; rates of bare matrix products:"
    )
    rates: dict[BenchModel, Rates] = {}
    for model in models:
        with team(config, model, num_threads) as workers:
            rates[model] = workers.worker(PROBE).ask("rates")
        print("\n".join(rates_lines(model.value, rates[model])), flush=True)
    seconds = {
        cell.key: forecast_s(cell, rates[cell.model].costs, num_layers(config, cell.model), _SETUP_S) for cell in cells
    }
    print(f"{len(cells)} cells, about {duration(sum(seconds.values()))}", flush=True)
    for cell in cells:
        print(f"  {cell.title}: {len(cell.variants)} variants, about {duration(seconds[cell.key])}")
    if forecast_only:
        return 0
    rows: list[Row] = []
    for model in models:
        with team(config, model, num_threads) as workers:
            for cell in (cell for cell in cells if cell.model is model):
                rows += _cell(config, cell, workers, rates[model], source)
    results = [asdict(row) for row in rows]
    last = {
        "schema_version": SCHEMA_VERSION,
        **source,
        "rates": {model.value: asdict(rates[model]) for model in models},
        "rows_in": sum(row.rows_in or 0 for row in rows),
        "rows_out": sum(row.rows_out or 0 for row in rows),
        "results": [{name: value for name, value in row.items() if name not in source} for row in results],
    }
    print(json.dumps(last))
    return 0


def _cell(config: "BenchConfig", cell: "Cell", workers: "Team", rates: "Rates", source: dict[str, Any]) -> "list[Row]":
    """Measure one cell, print it, append its rows to the results."""
    from jobs.bench.engine.measure import prepare, run_rounds
    from jobs.bench.engine.measured_rows import Measured, rows_of
    from jobs.bench.engine.printed import latency_line, table

    print(f"\n{cell.title}, {cell.num_sequences} sequences", flush=True)
    outcomes, skipped = prepare(cell, workers)
    start_s = time.perf_counter()
    rounds = run_rounds(cell, [name for name in cell.variants if name in outcomes], workers, config.settle_s)
    layers = num_layers(config, cell.model)
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    rows = rows_of(
        Measured(cell, outcomes, rounds, skipped, rates.costs, layers, config.engine),
        {**source, "time_utc": now, "weights_sha256": rates.weights_sha256},
    )
    print("\n".join(table(rows)))
    if line := latency_line(rows):
        print(line)
    print(f"  {cell.rounds} rounds in {time.perf_counter() - start_s:.0f} s", flush=True)
    path = Path(config.results)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(asdict(row)) + "\n" for row in rows)
    return rows


def num_layers(config: "BenchConfig", model: "BenchModel") -> int:
    from conf.checkpoint_files import read_model_config
    from jobs.bench.engine.places import checkpoint_of

    return read_model_config(checkpoint_of(config, model)).decoder.num_layers
