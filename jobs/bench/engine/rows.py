"""The row of one variant in one cell: what the results file and the last line of stdout hold."""

from typing import Any

from pydantic import Field

from conf.schema import Section

SCHEMA_VERSION = 2


class Row(Section):
    """None is unknown, or not defined for the variant. Seconds, bytes, layers; shares are between 0 and 1."""

    schema_version: int = SCHEMA_VERSION
    # where it comes from
    time_utc: str
    command: str
    commit: str | None
    weights_sha256: str | None
    hardware: dict[str, Any]
    versions: dict[str, str | None]
    seed: int
    # what was measured
    model: str
    distribution: str
    encoder: str
    slots: int
    length: int | None
    dtype: str
    variant: str
    skipped: str | None = Field(None, description="Why the variant does not apply to the cell; all below is None then.")
    rounds: int = 0
    rows_in: int | None = None
    rows_out: int | None = None
    # speed: medians over rounds; ratios to full depth are taken within a round
    sequences_per_s: float | None = None
    tokens_per_s: float | None = None
    decode_s_per_sequence: float | None = None
    ratio: float | None = None
    ratio_min: float | None = None
    ratio_max: float | None = None
    decode_ratio: float | None = None
    decode_ratio_min: float | None = None
    decode_ratio_max: float | None = None
    latency_p50_s: float | None = None
    latency_p99_s: float | None = None
    # where the time goes
    encode_share: float | None = None
    decode_share: float | None = None
    gate_share: float | None = None
    host_share: float | None = None
    # what was computed
    mean_depth: float | None = None
    computed_depth: float | None = Field(None, description="Layers computed per token, pending positions included.")
    visits_by_segment: tuple[int, ...] = ()
    rows_per_visit: tuple[float, ...] = ()
    positions_per_visit: tuple[float, ...] = ()
    padding: float | None = None
    # is it right
    agreement_outputs: float | None = None
    agreement_tokens: float | None = None
    replayed_steps: int | None = None
    replayed_tokens: float | None = None
    replayed_exits: float | None = None
    involuntary_exits: int | None = None
    accepted_drafts: float | None = None
    # memory
    peak_memory_bytes: int | None = None
    kv_cache_bytes: int | None = None
    # how far from what is possible
    bound: float | None = Field(None, description="Largest ratio to full depth, by full depth's own measured costs.")
    decode_bound: float | None = None
    of_bound: float | None = None
    decode_of_bound: float | None = None
    roofline_bound: float | None = Field(None, description="The same by the costs of bare matrix products.")
    of_roofline: float | None = Field(None, description="Time of bare matrix products / time of the variant.")
