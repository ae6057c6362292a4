"""What an engine counts, window by window, and how it is timed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from actors.engine.depth_probe import DepthProbe
from actors.engine.request import ActiveSequence


@dataclass(slots=True)
class EngineStats:
    """Counters of one window; seconds of the engine's clock, lists with one entry per segment.

    Names that the table engine_stats has too (pipeline/tables.py) mean the same there.
    """

    start_s: float
    segment_visits: list[int]
    segment_rows: list[int]
    segment_positions: list[int]
    segment_s: list[float]
    end_s: float = 0.0
    busy_s: float = 0.0  # the sum of the next four
    encode_s: float = 0.0
    decode_s: float = 0.0
    gate_s: float = 0.0
    host_s: float = 0.0
    full_depth_s: float | None = None  # what segment_s would be at full depth, by probes; None: there was none yet
    overlapped_s: float = 0.0  # of the encoder, while the decoder ran; encode_s is only what the engine waited then
    num_steps: int = 0
    num_tokens: int = 0  # decoding steps, end tokens included, less the drafts that were taken back
    num_completed: int = 0
    occupancy: float = 0.0  # mean share of slots in use, over steps
    kv_cache_bytes: int = 0
    involuntary_exits: int = 0  # rows let out below their threshold; must stay 0
    num_drafted: int = 0  # tokens of early exits that full depth had to check (lossless)
    num_accepted: int = 0  # those it confirmed
    num_audited: int = 0  # tokens a shortlist chose that were checked against the whole vocabulary
    num_audited_same: int = 0  # those it would have chosen too

    @classmethod
    def begin(cls, start_s: float, num_segments: int) -> "EngineStats":
        visits, rows, positions = ([0] * num_segments for _ in range(3))
        return cls(start_s, visits, rows, positions, [0.0] * num_segments)


class Stopwatch:
    """Times what runs inside `with stopwatch:`. A class, as it runs several times in every step."""

    __slots__ = ("_clock", "_start_s", "end_s", "last_s", "total_s")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._start_s = self.end_s = 0.0
        self.total_s = 0.0  # since the last `take`
        self.last_s = 0.0  # seconds of the last time

    def __enter__(self) -> None:
        self._start_s = self._clock()

    def __exit__(self, *_: object) -> None:
        self.end_s = self._clock()
        self.last_s = self.end_s - self._start_s
        self.total_s += self.last_s

    def take(self) -> float:
        """Return the seconds since the last call."""
        total_s, self.total_s = self.total_s, 0.0
        return total_s


class Meter:
    """The counters of the current window and the stopwatches of an engine; whoever counts something does it here."""

    def __init__(self, clock: Callable[[], float], num_segments: int) -> None:
        self.clock = clock
        self.busy = Stopwatch(clock)  # around everything; what is in none of the others is the host's
        self.encode, self.decode, self.gate = Stopwatch(clock), Stopwatch(clock), Stopwatch(clock)
        self.probe: DepthProbe | None = None
        self.probe_watch = Stopwatch(clock)
        self._probed_s = 0.0  # in this window
        self._model_s = 0.0  # in the model, when the current step began
        self._num_segments = num_segments
        self.stats = EngineStats.begin(clock(), num_segments)

    def begin_step(self, share_held: float) -> None:
        self.stats.num_steps += 1
        self.stats.occupancy += share_held
        self._model_s = self.decode.total_s + self.gate.total_s

    def charge(self, sequences: Sequence[ActiveSequence], weights: Sequence[int], segment: int | None = None) -> None:
        """Split the seconds that `busy` has just timed over the sequences, so that their sums equal busy time.

        Weights are the positions that each brought to the segment, or equal ones where it was the encoder that ran.
        """
        spent_s, total = self.busy.last_s, sum(weights)
        for sequence, weight in zip(sequences, weights, strict=True):
            sequence.device_s += spent_s * weight / total
        if self.probe is not None:
            self.probe.worked(spent_s)
        if segment is not None:
            probe_s = self.probe_watch.take()
            self._probed_s += probe_s
            spent_s -= probe_s
            self.stats.segment_visits[segment] += 1
            self.stats.segment_rows[segment] += len(sequences)
            self.stats.segment_positions[segment] += total
            self.stats.segment_s[segment] += spent_s
            if segment == 0 and self.probe is not None:
                self.probe.visited(spent_s, self.decode.total_s + self.gate.total_s - self._model_s, probe_s)

    def take(self, kv_cache_bytes: int) -> EngineStats:
        """Close the window and return its counters; a new one begins."""
        stats = self.stats
        stats.end_s, stats.kv_cache_bytes = self.clock(), kv_cache_bytes
        watches = (self.busy, self.encode, self.decode, self.gate)
        stats.busy_s, stats.encode_s, stats.decode_s, stats.gate_s = (watch.take() for watch in watches)
        stats.decode_s, self._probed_s = stats.decode_s + self._probed_s, 0.0
        if self.probe is not None and self.probe.ratio is not None:
            stats.full_depth_s = stats.segment_s[0] * self.probe.ratio
        stats.host_s = max(0.0, stats.busy_s - stats.encode_s - stats.decode_s - stats.gate_s)
        stats.occupancy /= max(1, stats.num_steps)
        self.stats = EngineStats.begin(stats.end_s, self._num_segments)
        return stats

    def restart(self) -> None:
        """Forget what was counted in this window."""
        self.stats = EngineStats.begin(self.stats.start_s, self._num_segments)


def split_encoding(sequences: Sequence[ActiveSequence], seconds: float) -> None:
    """Give every sequence its share of the seconds that its encoder batch took."""
    for sequence in sequences:
        sequence.encode_s += seconds / len(sequences)
