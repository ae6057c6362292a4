"""Sums over the rows of results/ and errors/, batch by batch: memory does not grow with the number of rows."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.report.picks import FirstK, Tag, fair_keys
from pipeline.report.repeats import is_looping
from pipeline.report.sketch import Sketch, floats
from pipeline.report.work import caught_up

SKETCHED = ("queue_wait_s", "encode_s", "ttft_s", "decode_s", "e2e_s", "device_s", "num_tokens", "mean_depth")
RESULTS_COLUMNS = (
    "sample_id", "prompt_index", "text", "finish_reason", "min_confidence", "exit_layers", "confidences", *SKETCHED
)  # fmt: skip
ERRORS_COLUMNS = ("sample_id", "key", "prompt_index", "stage", "error_type", "message", "attempts")
MAX_LAYERS, MAX_POSITIONS = 256, 128
_MAX_KINDS = 100  # of errors; the rest is counted together
_EXAMPLES_PER_KIND = 3


@dataclass
class ResultsScan:
    """Sums over results/."""

    num_rows: int = 0
    num_looping: int = 0
    finish_reasons: Counter[str] = field(default_factory=Counter)
    depth_steps: np.ndarray = field(
        default_factory=lambda: np.zeros(MAX_LAYERS, np.int64)
    )  # steps that left at a layer
    caught_up_layers: int = 0  # layers computed where deep steps make earlier ones catch up
    depth_confidence: np.ndarray = field(default_factory=lambda: np.zeros(MAX_LAYERS))  # their confidences, summed
    position_layers: np.ndarray = field(default_factory=lambda: np.zeros(MAX_POSITIONS))  # left at, by position
    position_caught_up: np.ndarray = field(default_factory=lambda: np.zeros(MAX_POSITIONS))  # computed, by position
    position_steps: np.ndarray = field(default_factory=lambda: np.zeros(MAX_POSITIONS, np.int64))
    sketches: dict[str, Sketch] = field(default_factory=lambda: {name: Sketch() for name in SKETCHED})
    picks: dict[Tag, FirstK] = field(default_factory=dict)

    def add(self, batch: pa.RecordBatch, file: str, first_row: int) -> None:
        self.num_rows += batch.num_rows
        for item in pc.value_counts(batch["finish_reason"]).to_pylist():
            self.finish_reasons[item["values"] or "unknown"] += item["counts"]
        for name, sketch in self.sketches.items():
            sketch.add(floats(batch[name]))
        self._add_steps(batch["exit_layers"], batch["confidences"])
        fair = fair_keys(batch["sample_id"], batch["prompt_index"])
        reasons = batch["finish_reason"]
        looping = np.array([is_looping(text) for text in batch["text"].to_pylist()], bool) | _is(reasons, "loop")
        self.num_looping += int(looping.sum())
        keys = {
            Tag.SAMPLE: fair,
            Tag.UNCERTAIN: floats(batch["min_confidence"]),
            Tag.DEEP: -floats(batch["mean_depth"]),
            Tag.TRUNCATED: np.where(_is(reasons, "length"), fair, np.nan),
            Tag.LOOPED: np.where(looping, fair, np.nan),
        }
        for tag, first in self.picks.items():
            first.add(keys[tag], file, first_row)

    def _add_steps(self, layer_lists: pa.Array, confidence_lists: pa.Array) -> None:
        layers = layer_lists.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
        lengths = pc.fill_null(pc.list_value_length(layer_lists), 0).to_numpy(zero_copy_only=False)
        positions = np.arange(layers.size) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        computed = caught_up(layers, lengths)
        self.caught_up_layers += int(computed.sum())
        self.depth_steps += np.bincount(layers, minlength=MAX_LAYERS)
        confidences = confidence_lists.flatten().to_numpy(zero_copy_only=False)
        if confidences.size == layers.size:
            self.depth_confidence += np.bincount(layers, weights=confidences, minlength=MAX_LAYERS)
        near = positions < MAX_POSITIONS
        self.position_steps += np.bincount(positions[near], minlength=MAX_POSITIONS)
        for sums, of_steps in ((self.position_layers, layers), (self.position_caught_up, computed)):
            sums += np.bincount(positions[near], weights=of_steps[near], minlength=MAX_POSITIONS)

    def merge(self, other: "ResultsScan") -> None:
        self.num_rows += other.num_rows
        self.num_looping += other.num_looping
        self.caught_up_layers += other.caught_up_layers
        self.finish_reasons += other.finish_reasons
        for name in ("depth_steps", "depth_confidence", "position_layers", "position_caught_up", "position_steps"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name, sketch in self.sketches.items():
            sketch.merge(other.sketches[name])
        for tag, first in self.picks.items():
            first.merge(other.picks[tag].picks)


@dataclass
class KindScan:
    """Errors of one stage and type, with an example."""

    count: int = 0
    sample_id: str | None = None
    message: str | None = None
    attempts: int = 0
    examples: FirstK = field(default_factory=lambda: FirstK(_EXAMPLES_PER_KIND))


@dataclass
class ErrorsScan:
    """Sums over errors/. Rows without a key are of a whole shard."""

    num_rows: int = 0
    num_shard_rows: int = 0
    num_retried: int = 0
    kinds: dict[tuple[str, str], KindScan] = field(default_factory=dict)

    def add(self, batch: pa.RecordBatch, file: str, first_row: int) -> None:
        self.num_rows += batch.num_rows
        self.num_shard_rows += batch["key"].null_count
        self.num_retried += pc.sum(pc.fill_null(pc.greater(batch["attempts"], 1), False)).as_py() or 0
        table = pa.Table.from_batches([batch])
        measures = [("message", "count"), ("sample_id", "first"), ("message", "first"), ("attempts", "max")]
        options = pc.CountOptions(mode="all")
        measures[0] = ("message", "count", options)  # type: ignore[assignment]
        groups = table.group_by(["stage", "error_type"], use_threads=False).aggregate(measures).to_pylist()
        fair = fair_keys(batch["sample_id"], batch["prompt_index"])
        for group in groups:
            stage, error_type = group["stage"] or "unknown", group["error_type"] or "unknown"
            kind = self._kind((stage, error_type))
            _add_example(
                kind, group["message_count"], group["sample_id_first"], group["message_first"], group["attempts_max"]
            )
            mine = _is(batch["stage"], group["stage"]) & _is(batch["error_type"], group["error_type"])
            kind.examples.add(np.where(mine, fair, np.nan), file, first_row)

    def merge(self, other: "ErrorsScan") -> None:
        self.num_rows += other.num_rows
        self.num_shard_rows += other.num_shard_rows
        self.num_retried += other.num_retried
        for name, kind in other.kinds.items():
            mine = self._kind(name)
            _add_example(mine, kind.count, kind.sample_id, kind.message, kind.attempts)
            mine.examples.merge(kind.examples.picks)

    def _kind(self, name: tuple[str, str]) -> KindScan:
        if name not in self.kinds and len(self.kinds) >= _MAX_KINDS:
            name = ("other", "other")
        return self.kinds.setdefault(name, KindScan())


def _add_example(kind: KindScan, count: int, sample_id: str | None, message: str | None, attempts: int | None) -> None:
    kind.count += count
    kind.sample_id, kind.message = kind.sample_id or sample_id, kind.message or message
    kind.attempts = max(kind.attempts, attempts or 0)


def _is(column: pa.Array, value: str | None) -> np.ndarray:
    mask = pc.is_null(column) if value is None else pc.fill_null(pc.equal(column, value), False)
    return np.asarray(mask.to_numpy(zero_copy_only=False), bool)
