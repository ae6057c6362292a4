"""Frozen configuration of `deed bench engine`. Nothing here imports torch."""

from enum import Enum
from typing import Annotated, Literal

from pydantic import Field

from conf.engine import EngineConfig
from conf.section import Count, Section


class BenchModel(str, Enum):
    """What is measured. All but `scenes` have random weights, made here, the same for every opponent."""

    SCENES = "scenes"  # the checkpoint of the configuration
    T5_BASE = "t5_base"
    PIX2STRUCT_BASE = "pix2struct_base"
    T5GEMMA2_270M = "t5gemma2_270m"
    T5_TINY = "t5_tiny"
    PIX2STRUCT_TINY = "pix2struct_tiny"
    T5GEMMA2_TINY = "t5gemma2_tiny"


class Distribution(str, Enum):
    """Where exit depths come from."""

    OWN = "own"  # the checkpoint's gates and thresholds, outputs as long as they are
    INDEPENDENT = "independent"  # scripted: every token draws its depth
    CLUSTERED = "clustered"  # scripted: the same depths, dealt so that hard tokens are in hard sequences


class Sweep(Section):
    """Every combination of these lists is one cell: variants measured together, round by round."""

    models: tuple[BenchModel, ...] = Field(description="What runs.")
    distributions: tuple[Distribution, ...] = Field(description="Where exit depths come from.")
    slots: tuple[Count, ...] = Field(description="Sequences in flight; the batch of the static opponents.")
    lengths: tuple[Count, ...] = Field((20,), description="Output tokens of scripted cells; own ends by itself.")
    variants: tuple[str, ...] = Field(description="Names from jobs/bench/engine/variants.py; full always runs.")
    encoder: Literal["run", "replayed"] = Field(
        "run", description="replayed: states are computed before the clock starts, and only decoding is compared."
    )
    rounds: Count = Field(5, description="Measurements of every variant; ratios are taken within a round.")
    sequences_per_slot: Count = Field(3, description="Work of one measurement, in slots full of sequences.")
    min_sequences: Count = Field(8, description="Least work of one measurement.")


class BenchConfig(Section):
    """What to measure (`sweeps`), and the slice of it to measure now (`models` ... `variants`)."""

    checkpoint: str = Field("assets/checkpoints/deed-scenes", description="The model `scenes`.")
    prompt: str = Field("describe the image in detail", description="What `scenes` is asked.")
    sweeps: Annotated[tuple[Sweep, ...], Field(min_length=1, description="All there is to measure.")]
    models: tuple[BenchModel, ...] | None = Field(None, description="Only these models; none: all of the sweeps.")
    distributions: tuple[Distribution, ...] | None = Field(None, description="Only these distributions.")
    slots: tuple[Count, ...] | None = Field(None, description="Only these numbers of slots.")
    lengths: tuple[Count, ...] | None = Field(None, description="Only these output lengths.")
    variants: tuple[str, ...] | None = Field(None, description="Only these variants, and full.")
    rounds: Count | None = Field(None, description="In place of the sweeps' rounds.")
    mean_depth: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.4, description="Mean depth of scripted tokens, as a share of all layers."
    )
    engine: EngineConfig = Field(EngineConfig(), description="What all variants of our engine have in common.")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Of the weights of every variant.")
    num_threads: Count | None = Field(None, description="CPU threads of every variant; none: all there are.")
    replayed_sequences: Count = Field(4, description="Sequences of each variant that the replay oracle checks.")
    seed: Annotated[int, Field(ge=0)] = Field(0, description="Of random models, requests and scripted depths.")
    settle_s: Annotated[float, Field(ge=0)] = Field(
        0.3, description="Pause before a measurement, in which the threads of the one before fall asleep."
    )
    work_dir: str = Field("runs/bench-engine", description="Random models; made once, may be deleted.")
    results: str = Field("runs/bench-engine/results.jsonl", description="One line per row is appended to this file.")
