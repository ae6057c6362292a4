"""Counters of an engine over a window of time."""

from dataclasses import dataclass, field
from typing import Any

from actors.engine.costs import VisitCost


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counters of one window; seconds of the engine's clock. Tuples have one entry per segment."""

    start_s: float
    end_s: float
    busy_s: float
    encode_s: float
    decode_s: float
    gate_s: float
    host_s: float
    num_steps: int
    num_tokens: int  # decoding steps, end tokens included
    num_completed: int
    occupancy: float  # mean share of slots in use, over steps
    segment_visits: tuple[int, ...]
    segment_rows: tuple[int, ...]
    segment_positions: tuple[int, ...]
    segment_s: tuple[float, ...]
    kv_cache_bytes: int
    involuntary_exits: int = 0
    num_drafted: int = 0  # tokens of early exits that full depth had to check (lossless)
    num_accepted: int = 0  # those it confirmed
    num_audited: int = 0  # tokens a shortlist chose that were checked against the whole vocabulary
    num_audited_same: int = 0  # those it would have chosen too
    segment_places: tuple[int, ...] = ()  # attention places computed; what is more than positions is padding
    segment_costs: tuple[VisitCost, ...] = ()  # what regrouping goes by
    calibration_s: float = 0.0  # spent on measuring it, in the window the engine started in
    overlapped_s: float = 0.0  # of the encoder, while the decoder ran; encode_s is only what the engine waited then
    num_slots: int = 0  # sequences that can be in flight
    exit_layers: tuple[int, ...] = ()  # where segments end; exits that cannot fire are left out

    @property
    def shortlist_agreement(self) -> float | None:
        """Share of the checked tokens that the whole vocabulary would have given; None where none was checked."""
        return self.num_audited_same / self.num_audited if self.num_audited else None

    @property
    def draft_acceptance(self) -> float | None:
        """Share of the drafts that full depth confirmed; None where there were none."""
        return self.num_accepted / self.num_drafted if self.num_drafted else None

    @property
    def padding(self) -> float:
        """Share of attention places that held nothing; everything else runs on packed rows."""
        places = sum(self.segment_places)
        return 1 - sum(self.segment_positions) / places if places else 0.0


@dataclass(slots=True)
class Window:
    """The counters being filled."""

    start_s: float
    num_segments: int
    encode_s: float = 0.0
    decode_s: float = 0.0
    gate_s: float = 0.0
    host_s: float = 0.0
    overlapped_s: float = 0.0
    calibration_s: float = 0.0
    num_steps: int = 0
    num_completed: int = 0
    occupied: float = 0.0
    visits: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.visits, self.rows, self.positions, self.places = ([0] * self.num_segments for _ in range(4))
        self.seconds = [0.0] * self.num_segments

    def stats(self, now_s: float, **others: Any) -> EngineStats:
        """The window closed at `now_s`, with what the engine counts elsewhere."""
        return EngineStats(
            start_s=self.start_s,
            end_s=now_s,
            busy_s=self.encode_s + self.decode_s + self.gate_s + self.host_s,
            encode_s=self.encode_s,
            decode_s=self.decode_s,
            gate_s=self.gate_s,
            host_s=self.host_s,
            num_steps=self.num_steps,
            num_completed=self.num_completed,
            occupancy=self.occupied / max(1, self.num_steps),
            segment_visits=tuple(self.visits),
            segment_rows=tuple(self.rows),
            segment_positions=tuple(self.positions),
            segment_s=tuple(self.seconds),
            segment_places=tuple(self.places),
            calibration_s=self.calibration_s,
            overlapped_s=self.overlapped_s,
            **others,
        )
