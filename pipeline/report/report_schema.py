"""The numbers of a run's report: frozen, None is unknown, and the JSON form is these classes as they are."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.report.audit import Audit
from pipeline.report.compare import Comparison
from pipeline.report.cost import Cost, DeviceTime
from pipeline.report.quality import Quality
from pipeline.source.plan import LeftOut

SCHEMA_VERSION = 1  # of the JSON form; raise it when a field changes its meaning or goes


@dataclass(frozen=True)
class Check:
    """Two ways to the same number: whether they agree; None when one of them is unknown."""

    name: str
    ok: bool | None
    detail: str


@dataclass(frozen=True)
class Outcome:
    status: str  # as in run.json; "unfinished" without one
    message: str | None
    shards: int | None
    shards_published: int
    samples: int | None
    rows_read: int
    rows_ok: int
    rows_error: int
    shard_errors: int
    rows_truncated: int
    rows_looped: int  # texts that repeat themselves, see loops.py
    rows_retried: int  # failed rows that were tried more than once
    left_out: tuple[LeftOut, ...]  # files of the source that were no input rows, by reason
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Quantiles:
    count: int
    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None
    highest: float | None
    histogram: tuple[tuple[float, float, int], ...]  # (from, to, rows), equally wide on a logarithmic axis


@dataclass(frozen=True)
class Segment:
    """The layers between two exits."""

    first_layer: int | None  # 1 is the lowest; None where the exits are unknown
    last_layer: int | None
    visits: int
    mean_rows: float | None  # sequences per visit: the batch size
    mean_positions: float | None  # positions per visit, pending ones included
    seconds: float


@dataclass(frozen=True)
class Speed:
    wall_s: float | None
    images_per_s: float | None  # over the wall time, start-up included
    images_per_s_steady: float | None  # from the first to the last engine window
    images_per_s_per_actor: float | None
    tokens_per_s: float | None
    num_actors: int | None
    occupancy: float | None
    decoder_share: float | None  # of busy time: the most that exits could save
    segments: tuple[Segment, ...]
    kv_cache_bytes: int | None
    involuntary_exits: int | None
    timeline: tuple[tuple[float, float], ...]  # (seconds of work, images finished per second)


@dataclass(frozen=True)
class Depth:
    layer: int
    steps: int
    share: float
    mean_confidence: float | None


@dataclass(frozen=True)
class Exits:
    num_layers: int | None  # full depth
    num_steps: int
    mean_depth: float | None  # where tokens left
    computed_depth: float | None  # layers computed for a token, with those it had to catch up on
    layers_saved: float | None  # share of full depth's layers that were not computed
    histogram: tuple[Depth, ...]
    by_position: tuple[tuple[int, float, int], ...]  # (position, mean depth, steps)
    computed_by_position: tuple[float | None, ...]  # layers computed for a token, at the same positions
    per_image: Quantiles  # mean depth of an image


@dataclass(frozen=True)
class FullDepthEstimate:
    """What the engines saved by their own account, from samples of their visits that all layers ran too."""

    decoder_time_saved: float  # share of what the decoder would have taken at full depth
    device_time_saved: float  # share of the whole device time; the encoder is not saved


@dataclass(frozen=True)
class ErrorKind:
    stage: str
    error_type: str
    count: int
    share: float  # of the rows read
    sample_id: str | None  # an example
    message: str | None
    attempts: int  # most of any such row


@dataclass(frozen=True)
class Identity:
    url: str
    command: tuple[str, ...]
    config: Mapping[str, Any]
    config_hash: str | None
    weights_sha256: str | None
    devices: tuple[str, ...]
    start_utc: str | None
    end_utc: str | None
    num_invocations: int | None
    hardware: Mapping[str, Any]
    versions: Mapping[str, Any]
    energy: Mapping[str, Any] | None  # wh and source, where a run measured it


@dataclass(frozen=True)
class RunNumbers:
    name: str
    identity: Identity
    outcome: Outcome
    speed: Speed
    tokens: Quantiles  # per image
    latency: Mapping[str, Quantiles]
    exits: Exits
    device_time: DeviceTime
    cost: Cost
    errors: tuple[ErrorKind, ...]
    quality: Quality | None = None
    against_full_depth: Comparison | None = None  # the same rows at full depth
    full_depth_estimate: FullDepthEstimate | None = None
    audit: Audit | None = None  # None: nothing was audited

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def is_full_depth(run: RunNumbers) -> bool:
    """Return whether the run was told never to leave early."""
    return (run.identity.config.get("engine") or {}).get("schedule") == "full"
