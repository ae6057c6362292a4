"""Frozen configuration of the batch job, one model per stage in the order the data flows.

Every field says its unit and which way to turn it. Unknown keys are errors. Nothing here imports torch or ray.
"""

import itertools
from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from conf.engine import EngineConfig
from conf.section import Section
from conf.source import SourceConfig


class PreprocessConfig(Section):
    """Image bytes to RGB pixels, in CPU tasks."""

    max_pixels: Annotated[int, Field(ge=1)] = Field(
        256_000_000,
        description="Most pixels that are decoded of one image; larger images become errors rows. JPEGs that are "
        "larger are decoded at 1/2, 1/4 or 1/8, and count as what is decoded.",
    )
    max_decode_bytes: Annotated[int, Field(ge=1)] = Field(
        1_500_000_000,
        description="Most bytes of memory that decoding one image may take, by its header; images that would take more "
        "become errors rows. Lower it where tasks share little memory.",
    )
    scaled_decode: bool | None = Field(
        None,
        description="Decode JPEGs at 1/2, 1/4 or 1/8 where that leaves twice what the model reads: faster, not exact "
        "for models that were trained on whole images. None: what the checkpoint's image plan says.",
    )
    header_font: str | None = Field(
        None,
        description="Path of a TrueType font, on every node, for models that read their prompt drawn above the "
        "image (Pix2Struct). None: the font that comes with Pillow, which lacks non-Latin scripts.",
    )
    duplicates_remembered: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Answers kept, by the image's sha256 and the prompt, for exact duplicates, which then get a copy "
        "without the engine; they take memory in one process. 0: every image is answered anew.",
    )
    decode_timeout_s: Annotated[float, Field(gt=0)] = Field(
        60.0,
        description="Seconds the decoder may take for one image; one that takes longer ends its task, is found, and "
        "becomes an errors row. Larger is safer on slow machines, smaller loses less time.",
    )
    num_cpus: Annotated[float, Field(gt=0)] = Field(
        0.5,
        description="CPUs one preprocessing task reserves. With two tasks a CPU, one works while the other waits for "
        "its next chunk; more takes less memory.",
    )
    max_tasks: int | None = Field(None, description="Most preprocessing tasks at once; none: as many as fit.")


class ModelSection(Section):
    """Which weights, where and in which precision."""

    checkpoint: str = Field(description="Checkpoint directory (config.json, model.safetensors, tokenizer.json).")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA when the actor sees one.")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="bfloat16 is faster on GPUs, not exact.")
    guarantee: str | None = Field(
        None,
        description="File of a guarantee (deed calibrate --risk), whose exits and thresholds the run then uses. None: "
        "the one in the checkpoint, if it is about what the run does.",
    )
    num_threads: int | None = Field(None, description="CPU threads per actor; none: the CPUs the actor reserves.")


class ActorsConfig(Section):
    """How many engines, where, and what each of them reserves."""

    num_actors: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="Engines at the start. auto: one per GPU, or one per two CPUs without GPUs."
    )
    min_actors: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Fewest engines; what is above them is given back when there is too little for them to do. None: "
        "none is, except, without GPUs, where a node is lost and preprocessing needs their CPUs.",
    )
    max_actors: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Most engines, for clusters that grow: more are started, and nodes asked for, while all are busy. "
        "None: num_actors.",
    )
    num_cpus: Annotated[float, Field(ge=0)] = Field(1.0, description="CPUs an actor reserves.")
    num_gpus: Annotated[float, Field(ge=0)] = Field(
        0.0, description="GPUs an actor reserves; fractions (0.5, 0.25) share a GPU, above 1 only whole ones."
    )
    accelerator_type: str | None = Field(
        None, description="Only on nodes with this accelerator, as Ray names it: H100, A100-80G, L4, T4 and so on."
    )
    label_selector: dict[str, str] = Field(
        {},
        description="Only on nodes with these labels, for example {ray.io/market-type: spot}; values may be negated "
        "(!spot) or a list (in(a,b)).",
    )
    chunks_in_flight: Annotated[int, Field(ge=1)] = Field(
        3, description="Chunks an actor works on at once, so that the engine does not drain between chunks."
    )

    @field_validator("num_gpus")
    @classmethod
    def _whole_above_one(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError(f"must be a fraction of one GPU or a whole number of them, got {value:g}")
        return value

    @model_validator(mode="after")
    def _in_order(self) -> "ActorsConfig":
        given = [
            (name, value)
            for name in ("min_actors", "num_actors", "max_actors")
            if isinstance(value := getattr(self, name), int)
        ]
        for (low, fewer), (high, more) in itertools.pairwise(given):
            if fewer > more:
                raise ValueError(f"{low}={fewer} is more than {high}={more}")
        return self


class RetryErrors(str, Enum):
    NONE = "none"
    TRANSIENT = "transient"
    ALL = "all"


def how_to_continue(on_existing: str) -> str:
    """Say what to do with a run that was stopped, for its output.on_existing."""
    if on_existing == "resume":
        return "run the same command again to continue"
    instead = "begins anew" if on_existing == "overwrite" else "refuses"
    return (
        "run the same command with output.on_existing=resume to continue "
        f"(with {on_existing}, as it was given, it {instead})"
    )


class OutputConfig(Section):
    """Where results go and what counts as failure."""

    path: str = Field(description="Output directory or URL.")
    on_existing: Literal["resume", "fail", "overwrite"] = Field(
        "resume", description="What to do with a directory that already holds this run."
    )
    retry_errors: RetryErrors = Field(
        RetryErrors.NONE,
        description="Rows that failed in an earlier run: none keeps them; transient tries those again that storage, "
        "the network or a dying worker may have caused; all tries every one. Costs their whole chunks.",
    )
    max_error_fraction: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="Share of error rows (after the first 1,000 rows) above which the run stops."
    )

    @property
    def to_continue(self) -> str:
        """Say what to do with a run that was stopped."""
        return how_to_continue(self.on_existing)


class BrokenPromise(str, Enum):
    WARN = "warn"
    STOP = "stop"
    FULL_DEPTH = "full_depth"


class AuditConfig(Section):
    """Some images are decoded at full depth as well: what early exit changes, and whether it is what was promised."""

    fraction: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None,
        description="Share of the images, chosen by a hash of their ids, that are decoded at full depth too. None: "
        "0.01 where the run has a promise to keep (model.guarantee), else 0. More sees a broken promise sooner, at a "
        "cost.",
    )
    on_broken_promise: BrokenPromise = Field(
        BrokenPromise.WARN,
        description="What follows when the audit finds the promise broken: warn says so and goes on, stop ends the "
        "run, full_depth decodes the rows that follow at full depth.",
    )


class CostConfig(Section):
    """Price of the hardware, entered by the user. Unknown stays unknown."""

    price_per_hour: float | None = Field(None, description="Price of all reserved hardware per hour, in `currency`.")
    currency: str = Field("USD", description="Currency of the price.")
    source: str | None = Field(None, description="Where the price was read.")
    date: str | None = Field(None, description="When it was read, YYYY-MM-DD.")

    @field_validator("date", mode="before")
    @classmethod
    def _date_as_text(cls, value: Any) -> Any:
        return value.isoformat() if isinstance(value, date) else value  # YAML reads 2026-11-01 as a date


class JobConfig(Section):
    """One captioning or VQA run."""

    source: SourceConfig
    preprocess: PreprocessConfig = PreprocessConfig()
    model: ModelSection
    engine: EngineConfig = EngineConfig()
    actors: ActorsConfig = ActorsConfig()
    audit: AuditConfig = AuditConfig()
    output: OutputConfig
    cost: CostConfig = CostConfig()
