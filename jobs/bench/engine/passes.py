"""What one run over the work gives; without torch, so that the bench itself need not load it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Pass:
    """A timed run. Seconds; None where an opponent does not tell. `decode_s` is all that is not the encoder."""

    num_sequences: int
    num_tokens: int  # output tokens, end tokens left out
    wall_s: float
    encode_s: float
    gate_s: float | None = None  # heads, gates, and what turns them into tokens
    host_s: float | None = None  # Python between tensors
    latency_p50_s: float | None = None  # of a sequence, from when it got a slot
    latency_p99_s: float | None = None
    visits: tuple[int, ...] = ()  # by segment
    rows: tuple[int, ...] = ()
    positions: tuple[int, ...] = ()
    involuntary_exits: int | None = None
    peak_memory_bytes: int = 0

    @property
    def decode_s(self) -> float:
        return self.wall_s - self.encode_s


@dataclass(frozen=True)
class Outcome:
    """What the untimed first run said, by request. `exit_indices` are of the variant's own exits."""

    tokens: list[list[int]]
    exit_layers: tuple[int, ...] = ()
    exit_indices: list[list[int]] | None = None  # per decoding step
    padding: float | None = None  # share of computed rows that nobody reads
    replayed_tokens: float | None = None  # share of emitted tokens the oracle gives at the same exit
    replayed_exits: float | None = None  # share of steps whose exit the oracle gives


def percentile(values: list[float], share: float) -> float:
    """Return the smallest value that `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-round(share * 1000) * len(ordered) // 1000) - 1))]


def peak_memory_bytes() -> int:
    """Return the most resident memory of this process since it started; 0 where the system does not tell.

    Not `getrusage`: its maximum is handed down by the process that started this one.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next((1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM:")), 0)
    except OSError:
        return 0
