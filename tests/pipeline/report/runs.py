"""Run directories as the job leaves them, made of random numbers: real schemas, counts and times that add up."""

import json
import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.output.storage import Storage
from pipeline.tables import ENGINE_STATS, errors_schema, results_schema

NOUNS = ["dog", "cat", "tree", "house", "boat", "apple", "clock", "kite", "shark", "pumpkin"]
COLORS = ["red", "blue", "green", "brown", "gray"]
HOSTILE = "<script>document.title='pwned'</script>"
EXITS = (2, 4, 6, 8)
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


@dataclass
class FakeRun:
    """What to make; `path` is where."""

    path: Path
    num_rows: int = 200
    num_shards: int = 2
    num_errors: int = 6
    num_actors: int = 2
    num_layers: int = 8
    full_depth: bool = False
    price_per_hour: float | None = 3.6
    hostile: bool = False  # one caption, key, prompt and message of every kind of trouble
    ended: bool = True
    seed: int = 7
    model_load_s: float = 4.0
    passthrough: tuple[str, ...] = ()
    different_every: int = 0  # every so many-th text is another one
    without_tokens: bool = False
    shard_prefix: str = "part"
    weights_sha256: str = "ab" * 32
    source_paths: tuple[str, ...] = ("data/part-*.tar",)
    rows: list[dict[str, Any]] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)

    def write(self) -> "FakeRun":
        rng = random.Random(self.seed)
        storage = Storage(str(self.path))
        self.rows = [self._row(rng, i) for i in range(self.num_rows)]
        self.errors = [self._error(i) for i in range(self.num_errors)]
        for name in sorted({row["shard"] for row in self.rows + self.errors}):
            for folder, rows, schema in (
                ("results", self.rows, results_schema(self.passthrough)),
                ("errors", self.errors, errors_schema(self.passthrough)),
            ):
                mine = [row for row in rows if row["shard"] == name]
                storage.write_table(f"{folder}/{name}.parquet", pa.Table.from_pylist(mine, schema=schema))
        windows = self._windows()
        for actor in range(self.num_actors):
            mine = [window for window in windows if window["actor"] == f"run-{actor}"]
            storage.write_table(
                f"engine_stats/run-{actor}-00000.parquet", pa.Table.from_pylist(mine, schema=ENGINE_STATS)
            )
        if self.ended:
            storage.write("run.json", json.dumps(self.record()).encode())
        return self

    @property
    def device_s(self) -> float:
        return sum(row["device_s"] for row in self.rows)

    @property
    def wall_s(self) -> float:
        """So long that every actor is busy for 80 % of it."""
        return self.device_s / max(1, self.num_actors) / 0.8 + self.model_load_s

    def _row(self, rng: random.Random, i: int) -> dict[str, Any]:
        words = ["a", rng.choice(COLORS), rng.choice(NOUNS), "next to", "a", rng.choice(COLORS), rng.choice(NOUNS)]
        if i % 3 == 0:
            words += ["and the sign says", rng.choice(["STOP", "EXIT", "CAFE"])]
        if self.hostile and i == 5:
            words = [HOSTILE, "[bold red]markup[/]", "| a `b` <b>c</b>", "\x1b[31mred\x1b[0m", "\u202eabc"]
        if self.different_every and i % self.different_every == 0:
            words[-1] = "something else"
        if i % 40 == 39:
            words = ["a", "a red", "dog on", "a red", "dog on", "a red", "dog on"]
        reason = "length" if i % 25 == 24 else "eos"
        token_texts = [(" " if j else "") + word for j, word in enumerate(words)] + ([""] if reason == "eos" else [])
        hard = [word in COLORS or word in NOUNS for word in words] + ([False] if reason == "eos" else [])
        depths = [rng.choice([4, 6, 8, 8]) if difficult else rng.choice([2, 2, 2, 4]) for difficult in hard]
        layers = [self.num_layers] * len(hard) if self.full_depth else depths
        confidences = [rng.uniform(0.5, 1.0) if difficult else rng.uniform(0.95, 1.0) for difficult in hard]
        key = f"k{i:05d}" if not (self.hostile and i == 5) else 'k"><img src=x onerror=alert(1)>'
        shard = f"{self.shard_prefix}-{i % self.num_shards:03d}"
        device_s = 0.002 + 0.0005 * sum(layers)
        ttft_s = rng.lognormvariate(-3, 0.4)
        return {
            "sample_id": f"{shard}/{key}",
            "shard": shard,
            "key": key,
            "prompt_index": 0,
            "prompt": "describe the image",
            "text": "".join(token_texts).strip(),
            "num_tokens": len(words),
            "finish_reason": reason,
            "mean_confidence": sum(confidences) / len(confidences),
            "min_confidence": min(confidences),
            "mean_depth": sum(layers) / len(layers),
            "exit_layers": layers,
            "confidences": confidences,
            "token_texts": None if self.without_tokens else token_texts,
            "queue_wait_s": rng.lognormvariate(-2, 1.0),
            "encode_s": 0.002,
            "ttft_s": ttft_s,
            "decode_s": ttft_s * 3,
            "e2e_s": ttft_s * 4 + rng.lognormvariate(-2, 1.0),
            "device_s": device_s,
            "width": 640,
            "height": 480,
            "sha256": f"{i:064x}",
            **{f"src_{name}": f"{name} {i}" for name in self.passthrough},
        }

    def _error(self, i: int) -> dict[str, Any]:
        kinds = ["truncated_image", "truncated_image", "unknown_format", "zero_bytes"]
        shard, key = f"{self.shard_prefix}-{i % self.num_shards:03d}", f"bad{i}"
        message = f"{shard}/{key}: image file is truncated (12 bytes not processed)"
        if self.hostile and i == 0:
            message = f"{HOSTILE} [red]x[/] | \x1b[2J `y`"
        return {
            "sample_id": f"{shard}/{key}",
            "shard": shard,
            "key": key,
            "prompt_index": None,
            "prompt": None,
            "stage": "preprocess",
            "error_type": kinds[i % len(kinds)],
            "message": message,
            "attempts": 1 + i % 2,
            "width": None,
            "height": None,
        }

    def _windows(self) -> list[dict[str, Any]]:
        """Ten windows an actor, from the end of its start-up to 5 % before the end of the run."""
        windows, count = [], 10
        length_s = (self.wall_s - self.model_load_s) * 0.95 / count
        busy_s = self.device_s / max(1, self.num_actors) / count
        for actor in range(self.num_actors):
            for i in range(count):
                start = START + timedelta(seconds=self.model_load_s + i * length_s)
                windows.append(
                    {
                        "invocation": "run",
                        "actor": f"run-{actor}",
                        "device": "cpu",
                        "start_utc": start,
                        "end_utc": start + timedelta(seconds=length_s),
                        "busy_s": busy_s,
                        "encode_s": 0.4 * busy_s,
                        "decode_s": 0.45 * busy_s,
                        "gate_s": 0.05 * busy_s,
                        "host_s": 0.08 * busy_s,
                        "num_steps": 100,
                        "num_tokens": 1600,
                        "num_completed": self.num_rows // (self.num_actors * count),
                        "occupancy": 0.75,
                        "segment_visits": [100, 60, 30, 20],
                        "segment_rows": [1600, 800, 300, 150],
                        "segment_positions": [1600, 900, 420, 260],
                        "segment_s": [0.2 * busy_s, 0.12 * busy_s, 0.08 * busy_s, 0.05 * busy_s],
                        "full_depth_s": None if self.full_depth else 0.9 * busy_s,
                        "kv_cache_bytes": 50_000_000,
                        "involuntary_exits": 0,
                        "model_load_s": self.model_load_s if i == 0 else None,
                    }
                )
        return windows

    def record(self) -> dict[str, Any]:
        """run.json, with the keys that pipeline.output.run_record writes."""
        wall_s, ok = self.wall_s, len(self.rows)
        total = None if self.price_per_hour is None else self.price_per_hour * wall_s / 3600
        end = START + timedelta(seconds=wall_s)
        note = {"invocation": "run", "status": "complete", "num_actors": self.num_actors, "ended": True}
        engine = {
            "num_slots": 16,
            "schedule": "full" if self.full_depth else "pool",
            "kv": "jit",
            "gate": "softmax_max",
        }
        thresholds = None if self.full_depth else [0.9] * (len(EXITS) - 1)
        exits = [self.num_layers] if self.full_depth else list(EXITS)
        price = {"price_per_hour": self.price_per_hour, "currency": "USD", "source": "price list", "date": "2026-01-01"}
        return {
            "status": "complete",
            "message": None,
            "config": {
                "source": {
                    "kind": "webdataset",
                    "paths": list(self.source_paths),
                    "passthrough": list(self.passthrough),
                },
                "model": {"checkpoint": "assets/checkpoints/fake", "device": "auto", "dtype": "float32"},
                "engine": {**engine, "exits": exits, "thresholds": thresholds},
                "output": {"path": str(self.path)},
            },
            "config_hash": "0123456789abcdef",
            "weights_sha256": self.weights_sha256,
            "counts": {
                "shards": self.num_shards,
                "shards_published": self.num_shards,
                "samples": ok + len(self.errors),
                "rows_read": ok + len(self.errors),
                "rows_ok": ok,
                "rows_error": len(self.errors),
                "shard_errors": 0,
            },
            "time": {
                "start_utc": START.isoformat(),
                "end_utc": end.isoformat(),
                "wall_s": wall_s,
                "invocations": [{**note, "start_utc": START.isoformat(), "last_seen_utc": end.isoformat()}],
            },
            "device": {
                "num_actors": self.num_actors,
                "allocated_s": wall_s * self.num_actors,
                "busy_s": self.device_s,
                "utilization": self.device_s / (wall_s * self.num_actors),
                "model_load_s": self.model_load_s,
                "devices": ["cpu"],
                "num_layers": self.num_layers,
            },
            "cost": {
                **price,
                "total": total,
                "per_million_rows": total / ok * 1e6 if total is not None and ok else None,
            },
            "energy": None,
            "hardware": {"cluster_cpus": 2.0, "cluster_gpus": 0.0, "driver_cpu": "A CPU", "driver_cores": 2},
            "versions": {"python": "3.11.2", "deed-pipeline": "0.1.0", "torch": None},
            "command": ["deed", "caption"],
        }
