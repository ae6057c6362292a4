"""One pass over the tables of a run, its files in parallel."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa

from pipeline.report.engine_scan import EngineScan, scan_engine_stats
from pipeline.report.folder import THREADS, RunFolder
from pipeline.report.picks import FirstK, Tag
from pipeline.report.row_scan import ERRORS_COLUMNS, RESULTS_COLUMNS, ErrorsScan, ResultsScan
from pipeline.tables import ENGINE_STATS

Part = TypeVar("Part")
Scan = TypeVar("Scan", ResultsScan, ErrorsScan)


@dataclass(frozen=True)
class RunScan:
    """Everything a report is computed from. `record` is run.json; None while a run has not ended in good order."""

    url: str
    record: dict[str, Any] | None
    num_published: int  # shards with a results file
    results: ResultsScan
    errors: ErrorsScan
    engine: EngineScan
    full_depth_sample: dict[str, Any] | None = None


def scan_run(folder: RunFolder, *, num_examples: int = 24, num_sampled: int = 2000) -> RunScan:
    """Read every table once. Picks: `num_examples` rows of each kind, and a fair sample of `num_sampled`."""

    def empty_results() -> ResultsScan:
        wanted = dict.fromkeys((Tag.UNCERTAIN, Tag.DEEP, Tag.TRUNCATED, Tag.LOOPED), num_examples)
        picks = {tag: FirstK(k) for tag, k in {**wanted, Tag.SAMPLE: num_sampled}.items()}
        return ResultsScan(picks=picks)

    record = folder.read_record()
    results = _merged(folder, folder.results, RESULTS_COLUMNS, empty_results)
    errors = _merged(folder, folder.errors, ERRORS_COLUMNS, ErrorsScan)
    tables = _in_parallel(lambda name: _windows(folder, name), folder.engine_stats)
    engine = scan_engine_stats(list(tables))
    return RunScan(folder.url, record, len(folder.results), results, errors, engine, folder.read_full_depth_sample())


def _merged(folder: RunFolder, names: Sequence[str], columns: Sequence[str], empty: Callable[[], Scan]) -> Scan:
    """Return the sums over some files."""

    def scan_file(name: str) -> Scan:
        scan, first_row = empty(), 0
        for batch in folder.batches(name, columns):
            scan.add(batch, name, first_row)
            first_row += batch.num_rows
        return scan

    whole = empty()
    for part in _in_parallel(scan_file, names):
        whole.merge(part)
    return whole


def _windows(folder: RunFolder, name: str) -> pa.Table:
    """Return the windows of one file; columns that did not exist when it was written are null."""
    table = pa.Table.from_batches(list(folder.batches(name)) or [pa.RecordBatch.from_pylist([], ENGINE_STATS)])
    for field in ENGINE_STATS:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table.select(ENGINE_STATS.names).cast(ENGINE_STATS)


def _in_parallel(scan: Callable[[str], Part], names: Sequence[str]) -> Iterator[Part]:
    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(scan, names)
