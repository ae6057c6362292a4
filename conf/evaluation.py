"""Frozen configuration of `deed evaluate` and `deed calibrate`. Nothing here imports torch."""

from typing import Annotated

from pydantic import Field

from conf.engine import EngineConfig
from conf.section import Count, Section

Threshold = Annotated[float, Field(ge=0)]
Risk = Annotated[float, Field(ge=0, le=1)]


class LabelledConfig(Section):
    """A checkpoint and what it is scored on."""

    checkpoint: str = Field(description="Checkpoint directory.")
    shards: tuple[str, ...] = Field(
        description="Labelled WebDataset shards (see jobs/scenes), globs too; thresholds are chosen on other ones than "
        "results are reported on."
    )
    num_images: Count
    questions_per_image: Annotated[int, Field(ge=0)] = Field(6, description="Questions asked of every image.")
    caption_prompt: str = Field("describe the image in detail", description="Prompt of the caption that is scored.")
    words_field: str = Field(
        "sign.plates", description="Where a sample's JSON has the words in its image, for models that read words."
    )
    num_threads: int | None = Field(None, description="CPU threads; none: all.")


class EvaluateConfig(LabelledConfig):
    """Score a checkpoint on labelled shards: every exit alone, calibrated early exits, a sweep of thresholds."""

    num_images: Count = Field(300, description="Images scored, from the first shard on.")
    static_exits: bool = Field(True, description="Also score every exit alone, which costs one pass per exit.")
    thresholds: tuple[Threshold, ...] = Field(
        (0.8, 0.9, 0.95, 0.99), description="Each is a row of early exit with this threshold at every exit."
    )
    engine: EngineConfig = EngineConfig()
    output: str | None = Field(None, description="JSON file for the numbers; none: only printed.")


class CalibrateConfig(LabelledConfig):
    """Choose the exit thresholds of a checkpoint on validation shards."""

    num_images: Count = Field(400, description="Images whose confidences are recorded.")
    check_images: Count = Field(150, description="Images decoded by the engine to check the quality of each candidate.")
    risks: tuple[Risk, ...] = Field(
        (0.002, 0.005, 0.01, 0.02, 0.04),
        description="Candidate rates of disagreement with full depth, per exit. Larger is shallower and riskier.",
    )
    max_points_lost: float = Field(
        0.5,
        description="Points of caption F1, of answer accuracy and of that on hard questions that early exit may lose.",
    )
    exits: tuple[int, ...] | None = Field(
        None, description="Exits to use, ending with full depth; none: all trained ones."
    )
    decoder_prefix: str = Field(
        "", description="What outputs begin with, as engine.generation.decoder_prefix; none: what the checkpoint says."
    )
    num_slots: Count = Field(32, description="Sequences in flight while candidates are checked.")
