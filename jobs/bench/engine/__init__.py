"""`deed bench engine`: our engine against itself without exits and against others, held against what is possible.

First come the rates of this machine at each model's shapes and a forecast of the time; then, for every cell, the bound
before the measurement, and medians of ratios with their spread. Each variant runs in a process of its own; rounds
interleave. Rows are appended to `results`, so that slices add up (--set models=[...] --set slots=[...]); --render makes
tables and a chart of them. The last line of stdout is one JSON object.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.job_arguments import add_config_arguments

if TYPE_CHECKING:
    from conf.bench import BenchConfig, BenchModel
    from jobs.bench.engine.cells import Cell
    from jobs.bench.engine.rows import Row


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="deed bench engine", description=__doc__)
    add_config_arguments(parser, "BenchConfig", "conf/bench.yaml")
    parser.add_argument("--forecast", action="store_true", help="say what would be measured and how long, then stop")
    parser.add_argument("--render", metavar="FILE.md", help="make tables and a chart of the results file, then stop")
    parser.add_argument("--endurance", type=int, metavar="N", help="does memory grow over N sequences? then stop")
    options = parser.parse_args(arguments)
    command = " ".join(["deed bench engine", *arguments])
    if options.endurance is not None:
        from jobs.bench.engine.endurance import endure

        return endure(options.endurance, command)

    from conf.bench import BenchConfig
    from conf.load import load_config

    config = load_config(options.config, options.set, BenchConfig)
    if options.render:
        from jobs.bench.engine.render import render

        return render(Path(config.results), Path(options.render))
    return bench(config, command, forecast_only=options.forecast)


def bench(config: "BenchConfig", command: str, *, forecast_only: bool = False) -> int:
    from jobs.bench.engine.bound import Costs
    from jobs.bench.engine.cells import plan
    from jobs.bench.engine.measure import team
    from jobs.bench.engine.origin import origin
    from jobs.bench.engine.text import duration, forecast_s, rates_lines

    cells = plan(config)
    models = list(dict.fromkeys(cell.model for cell in cells))
    num_threads = config.num_threads or len(os.sched_getaffinity(0))
    source = origin(command, num_threads, config.seed, config.dtype)
    print(
        f"{source['hardware']['cpu']}, {num_threads} threads, commit {source['commit']}; rates of bare matrix products:"
    )
    rates = {}
    for model in models:
        with team(config, model, num_threads) as workers:
            rates[model] = workers.worker("probe").ask("rates", encode_batch=config.engine.tuning.encode_batch)
        print("\n".join(rates_lines(model.value, rates[model])), flush=True)
    seconds = {
        cell.key: forecast_s(cell, Costs(**rates[cell.model]["costs"]), num_layers(config, cell.model), _SETUP_S)
        for cell in cells
    }
    print(f"{len(cells)} cells, about {duration(sum(seconds.values()))}", flush=True)
    for cell in cells:
        print(f"  {cell.title}: {len(cell.variants)} variants, about {duration(seconds[cell.key])}")
    if forecast_only:
        return 0
    rows: list[Any] = []
    for model in models:
        with team(config, model, num_threads) as workers:
            for cell in (cell for cell in cells if cell.model is model):
                rows += _cell(config, cell, workers, rates[model], source)
    done = [row for row in rows if row.skipped is None]
    last = {
        "schema_version": rows[0].schema_version,
        **source,
        "rates": {model.value: rates[model] for model in models},
        "rows_in": sum(row.rows_in or 0 for row in done),
        "rows_out": sum(row.rows_out or 0 for row in done),
        "results": [row.model_dump(mode="json", exclude=set(source)) for row in rows],
    }
    print(json.dumps(last))
    return 0


_SETUP_S = 6.0  # of a variant in a cell: starting, loading, running once; seen on a small machine


def _cell(
    config: "BenchConfig", cell: "Cell", workers: Any, rates: dict[str, Any], origin: dict[str, Any]
) -> "list[Row]":
    """Measure one cell, print it, append its rows to the results."""
    from jobs.bench.engine.bound import Costs
    from jobs.bench.engine.measure import measured, prepare
    from jobs.bench.engine.summary import rows_of
    from jobs.bench.engine.text import bound_line, latency_line, table

    costs, layers = Costs(**rates["costs"]), num_layers(config, cell.model)
    print(f"\n{cell.title}, {cell.num_sequences} sequences", flush=True)
    prepared = prepare(cell, workers)
    print(bound_line(cell, prepared[0], costs, layers, config.engine), flush=True)
    start_s = time.perf_counter()
    result = measured(config, cell, workers, prepared, costs, layers)
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    rows = rows_of(result, {**origin, "time_utc": now, "weights_sha256": rates["weights_sha256"]})
    print("\n".join(table(rows)))
    if line := latency_line(rows):
        print(line)
    print(f"  {cell.rounds} rounds in {time.perf_counter() - start_s:.0f} s", flush=True)
    path = Path(config.results)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.writelines(row.model_dump_json() + "\n" for row in rows)
    return rows


def num_layers(config: "BenchConfig", model: "BenchModel") -> int:
    from conf.model import read_model_config
    from jobs.bench.engine.places import checkpoint_of

    return read_model_config(checkpoint_of(config, model)).decoder.num_layers
