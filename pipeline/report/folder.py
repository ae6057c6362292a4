"""The files of a run directory, read only."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from conf.errors import UserError
from pipeline.output.formats import version_of
from pipeline.output.ledger import RUN_NAME
from pipeline.output.publish import ENGINE_STATS, ERRORS, RESULTS, published_name, table_names
from pipeline.output.storage import Storage
from pipeline.report.picks import Pick
from pipeline.source.file_systems import resolve

FULL_DEPTH_SAMPLE = "full_depth_sample.json"  # rows decoded both ways, see jobs/shared/full_depth.py
THREADS = 8
_BATCH_ROWS = 65_536


class RunFolder:
    """The files of a run, to be read only."""

    def __init__(self, url: str) -> None:
        self.storage = Storage(url)
        self._fs, _ = resolve(self.storage.url)
        self.results, self.errors, self.engine_stats = map(self._tables, (RESULTS, ERRORS, ENGINE_STATS))

    @property
    def url(self) -> str:
        return self.storage.url

    def read_record(self) -> dict[str, Any] | None:
        """run.json; None if there is none yet. UserError if there is nothing of a run at all, or it is damaged."""
        record = self._read_json(RUN_NAME)
        if record is None and not self.results:
            raise UserError(f"{self.url!r} is not the output of a run: it has neither run.json nor results/")
        if not isinstance(record, dict | None):
            raise UserError(f"{self.storage.path(RUN_NAME)!r} does not describe a run")
        version_of(record, self.storage.path(RUN_NAME))
        return record

    def read_full_depth_sample(self) -> dict[str, Any] | None:
        """Return what `deed report RUN --ab N` measured; None if nobody has."""
        sample = self._read_json(FULL_DEPTH_SAMPLE)
        return sample if isinstance(sample, dict) else None

    def _read_json(self, name: str) -> Any:
        """None where there is no such file."""
        try:
            return json.loads(self.storage.read(name))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise UserError(f"{self.storage.path(name)!r} is not valid JSON: {error}") from None

    def _tables(self, folder: str) -> list[str]:
        return [published_name(folder, name) for name in table_names(self.storage, folder)]

    def batches(self, name: str, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the rows of one table file; UserError in one sentence if it cannot be read."""
        try:
            with self._fs.open(self.storage.path(name), "rb") as stream:
                file = pq.ParquetFile(stream)
                missing = set(columns or ()) - set(file.schema_arrow.names)
                if missing:
                    raise UserError(f"{self.storage.path(name)!r} lacks the columns {sorted(missing)}")
                yield from file.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False)
        except pa.ArrowException as error:
            raise UserError(f"{self.storage.path(name)!r} is not a readable Parquet file: {error}") from None

    def rows(self, picks: Sequence[Pick], columns: Sequence[str] | None = None) -> dict[Pick, dict[str, Any]]:
        """Return the picked rows as dicts."""
        by_file: dict[str, list[Pick]] = {}
        for pick in picks:
            by_file.setdefault(pick.file, []).append(pick)

        def read(file: str) -> dict[Pick, dict[str, Any]]:
            wanted, first_row = sorted(by_file[file], key=lambda pick: pick.row), 0
            found: dict[Pick, dict[str, Any]] = {}
            for batch in self.batches(file, columns):
                here = [pick for pick in wanted if first_row <= pick.row < first_row + batch.num_rows]
                if here:
                    taken = batch.take(pa.array([pick.row - first_row for pick in here])).to_pylist()
                    found.update(zip(here, taken, strict=True))
                first_row += batch.num_rows
            return found

        with ThreadPoolExecutor(THREADS) as pool:
            return {pick: row for part in pool.map(read, by_file) for pick, row in part.items()}
