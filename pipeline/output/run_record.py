"""run.json: what was run, on what, how it ended, and counts that reconcile. Unknown is null, never 0.

A run may take several invocations of the command. Each leaves a small file while it runs, so that the time of one that
was killed is known up to its last sign of life.
"""

import json
import logging
import os
import platform
import sys
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import Any

from conf.checkpoint_info import CheckpointInfo
from conf.errors import OutputFailed, OutputLost, PromiseBroken
from conf.promise import run_warnings
from conf.schema import JobConfig
from pipeline.ops.cluster import Fit
from pipeline.ops.energy import EnergyMeter
from pipeline.output.ending import Status, ending
from pipeline.output.formats import KEY, VERSION
from pipeline.output.ledger import RUN_NAME, Ledger
from pipeline.output.output import INVOCATIONS, Output, invocation_s
from pipeline.output.publish import ENGINE_STATS, NO_ROWS, Counts, published_name, table_names
from pipeline.output.settings import settings_hash
from pipeline.output.storage import Storage
from pipeline.promise.watch import Watch
from pipeline.source.left_out import as_dicts
from pipeline.source.plan import sum_left_out

_LOG = logging.getLogger(__name__)
_TOUCH_S = 10.0
_STATS = {"busy_s", "model_load_s", "device", "num_drafted", "num_accepted", "num_audited", "num_audited_same"}
_PACKAGES = ("deed-pipeline", "ray", "pyarrow", "numpy", "pillow", "torch", "transformers", "tokenizers", "fsspec")


class TooManyErrors(Exception):
    """The share of failed rows is above output.max_error_fraction."""


class RunRecord:
    """Context manager around a run: notes its beginning, its signs of life and its end, then writes run.json."""

    def __init__(
        self,
        storage: Storage,
        config: JobConfig,
        info: CheckpointInfo,
        settings: Mapping[str, Any],
        fit: Fit,
        ledger: Ledger,
        start_s: float | None = None,  # when the command began to reserve the machine; none: now
        energy: EnergyMeter | None = None,  # none: unknown
        watch: Watch | None = None,  # none: nothing is audited
    ) -> None:
        self.invocation = f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
        self.status = Status.RUNNING
        self.message: str | None = None
        self.content: dict[str, Any] = {}
        self._storage, self._output = storage, Output(storage)
        self._config, self._info, self._fit, self._ledger = config, info, fit, ledger
        self._settings_hash, self._energy = settings_hash(settings), energy
        self._warnings, self._watch = run_warnings(config, info), watch
        self._counts: dict[str, Counts] = {}  # of shards published by this invocation
        self._start_s = time.time() if start_s is None else start_s
        self._touched_s = time.time()

    def __enter__(self) -> "RunRecord":
        self._save_invocation(ended=False)
        self._reopen_record()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OutputLost):  # the output and its run.json are another run's now
            return
        if error is None:
            own = self._counts
            self.status, self.message = ending(self._output, self._total_counts(), own, self._ledger.published)
        elif isinstance(error, TooManyErrors):
            self.status = Status.TOO_MANY_ERRORS
        elif isinstance(error, PromiseBroken):
            self.status = Status.PROMISE_BROKEN
        else:
            self.status = Status.FAILED if isinstance(error, Exception) else Status.INTERRUPTED
        if error is not None:
            self.message = f"{type(error).__name__}: {error}"
        try:
            self._save_invocation(ended=True)
            self.content = self._make_content()
            self._storage.write_json(RUN_NAME, self.content, indent=2)
        except (OutputFailed, OutputLost):
            if error is None:
                raise  # otherwise what ended the run is told, very likely the same thing

    def _reopen_record(self) -> None:
        """What an earlier invocation wrote when it was complete holds no longer."""
        content = self._output.record()
        if content is None:
            return
        content = {**content, "status": Status.RUNNING.value, "message": None}
        self._storage.write_json(RUN_NAME, content, indent=2)

    def touch(self) -> None:
        """Give a sign of life, every ten seconds at most."""
        if time.time() - self._touched_s >= _TOUCH_S:
            self._touched_s = time.time()
            self._save_invocation(ended=False)

    def warn(self, message: str) -> None:
        """Say it now, and keep it among the record's warnings."""
        _LOG.warning("%s", message)
        self._warnings.append(message)

    def add_published(self, shard_name: str, counts: Counts) -> None:
        self._counts[shard_name] = counts

    def _save_invocation(self, *, ended: bool) -> None:
        note = {
            "invocation": self.invocation,
            "status": self.status.value,
            "num_actors": self._fit.num_actors,
            "on_existing": self._config.output.on_existing,
            "start_utc": _utc(self._start_s),
            "last_seen_utc": _utc(time.time()),
            "ended": ended,
            "energy": _measured(self._energy),
        }
        self._storage.write(f"{INVOCATIONS}/{self.invocation}.json", json.dumps(note).encode())

    def _make_content(self) -> dict[str, Any]:
        invocations = self._output.invocations()
        wall_s = [invocation_s(note) for note in invocations]
        allocated_s = sum(s * note["num_actors"] for s, note in zip(wall_s, invocations, strict=True))
        price, stats = self._config.cost.price_per_hour, read_engine_stats(self._storage)
        counts = self._total_counts()
        cost = None if price is None else price * sum(wall_s) / 3600
        return {
            KEY: VERSION,
            "status": self.status.value,
            "message": self.message,
            "warnings": self._warnings,
            "config": self._config.model_dump(mode="json"),
            "config_hash": self._settings_hash,
            "weights_sha256": self._info.weights_sha256,
            "counts": {
                "shards": len(self._ledger.published) + len(self._ledger.open),
                "shards_published": len(self._ledger.published),
                "shards_missing": counts.num_missing,
                "samples": counts.num_samples,
                "rows_read": counts.num_rows,
                "rows_ok": counts.num_ok,
                "rows_error": counts.num_errors,
                "shard_errors": counts.num_shard_errors,
            },
            "left_out": as_dicts(sum_left_out([*self._output.left_out(), *counts.left_out])),
            "time": {
                "start_utc": min(note["start_utc"] for note in invocations),
                "end_utc": _utc(time.time()),
                "wall_s": sum(wall_s),
                "invocations": invocations,
            },
            "device": {
                "num_actors": self._fit.num_actors,
                "allocated_s": allocated_s,
                "busy_s": stats["busy_s"],
                "utilization": stats["busy_s"] / allocated_s if stats["busy_s"] is not None and allocated_s else None,
                "model_load_s": stats["model_load_s"],
                "devices": stats["devices"],
                "num_layers": self._info.model.decoder.num_layers,
            },
            "engine": {name: stats[name] for name in ("draft_acceptance", "shortlist_agreement")},
            "audit": None if self._watch is None else self._watch.content(stats["busy_s"]),
            "cost": {
                **self._config.cost.model_dump(mode="json"),
                "total": cost,
                "per_million_rows": cost / counts.num_ok * 1e6 if cost is not None and counts.num_ok else None,
            },
            "energy": _total_energy([note.get("energy") for note in invocations]),
            "hardware": _hardware(self._fit),
            "versions": {"python": platform.python_version(), **{name: version_or_none(name) for name in _PACKAGES}},
            "command": sys.argv,
        }

    def _total_counts(self) -> Counts:
        """Over all published shards; those of earlier invocations are read from their files."""
        earlier = self._output.counts(self._ledger.published - self._counts.keys())
        return sum([*self._counts.values(), *earlier.values()], NO_ROWS)


def read_engine_stats(storage: Storage) -> dict[str, Any]:
    """Busy seconds, start times, device names and shares over all statistics files; None where there are none."""
    names = table_names(storage, ENGINE_STATS)
    tables = [storage.read_table(published_name(ENGINE_STATS, name)) for name in names]
    rows = [row for table in tables for row in table.select(_STATS & set(table.column_names)).to_pylist()]
    loads = [row["model_load_s"] for row in rows if row["model_load_s"] is not None]
    return {
        "busy_s": sum(row["busy_s"] for row in rows) if rows else None,
        "model_load_s": sum(loads) / len(loads) if loads else None,
        "devices": sorted({row["device"] for row in rows}) if rows else None,
        "draft_acceptance": _share(rows, "num_accepted", "num_drafted"),
        "shortlist_agreement": _share(rows, "num_audited_same", "num_audited"),
    }


def _measured(energy: EnergyMeter | None) -> dict[str, Any] | None:
    """Return the watt-hours so far, and by what they were counted; None if they were not."""
    wh = None if energy is None else energy.read_wh()
    return None if energy is None or wh is None else {"wh": wh, "source": energy.source}


def _total_energy(parts: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Over all invocations; None where one of them does not know, or they counted different things."""
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts) or len({part["source"] for part in known}) > 1:
        return None
    return {"wh": sum(part["wh"] for part in known), "source": known[0]["source"]}


def _share(rows: Iterable[Mapping[str, Any]], part: str, whole: str) -> float | None:
    """Over windows; those of older files may lack the columns."""
    total = sum(row.get(whole) or 0 for row in rows)
    return sum(row.get(part) or 0 for row in rows) / total if total else None


def _hardware(fit: Fit) -> dict[str, Any]:
    return {
        "cluster_cpus": fit.cluster_cpus,
        "cluster_gpus": fit.cluster_gpus,
        "driver_cpu": cpu_model(),
        "driver_cores": os.cpu_count(),
        "driver_memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "platform": platform.platform(),
    }


def cpu_model() -> str | None:
    """Return the name of this machine's CPU; None where the system does not tell."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            return next((line.partition(":")[2].strip() for line in stream if line.startswith("model name")), None)
    except OSError:
        return None


def version_or_none(package: str) -> str | None:
    """Return the version of an installed package; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _utc(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, timezone.utc).isoformat(timespec="milliseconds")
