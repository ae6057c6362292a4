"""Frozen configuration of `deed evaluate` and `deed calibrate`. Nothing here imports torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from conf.engine import EngineConfig
from conf.rows import USUAL_FIELDS, RowsConfig, TargetConfig, TaskConfig
from conf.section import Count

Threshold = Annotated[float, Field(ge=0)]
Risk = Annotated[float, Field(ge=0, le=1)]


class LabelledConfig(RowsConfig):
    """A checkpoint and what it is scored on: a source that says what is right, by the usual names where none is given.

    Thresholds are chosen on other images than results are reported on.
    """

    checkpoint: str = Field(description="Checkpoint directory.")
    shard_order: Literal["random", "listed"] = Field(
        "listed", description="listed: the first images are used; random: shards in an order that depends on `seed`."
    )
    prompts_per_image: Count | None = Field(
        None, description="Most prompts that each task has for an image, the first ones; none: all."
    )
    group_by: tuple[str, ...] = Field(
        (), description="Fields of a sample, or of its prompts; answers are also scored for each of their values."
    )
    num_threads: int | None = Field(None, description="CPU threads; none: all.")

    @property
    def all_tasks(self) -> tuple[TaskConfig, ...]:
        """Return everything that is asked of an image, each with a target that says what is right."""
        usual = {"target": TargetConfig(field=USUAL_FIELDS)}
        return tuple(t if t.target.has_labels else t.model_copy(update=usual) for t in super().all_tasks)

    @property
    def kept_fields(self) -> tuple[str, ...]:
        return *super().kept_fields, *self.group_by

    @model_validator(mode="after")
    def _scores_need_labels(self) -> "LabelledConfig":
        if any(target.run is not None for target in (self.target, *(task.target for task in self.tasks))):
            raise ValueError("target.run is what a model has said; scores need what is right, target.field or template")
        return self


class EvaluateConfig(LabelledConfig):
    """Score a checkpoint on labelled rows: every exit alone, calibrated early exits, a sweep of thresholds."""

    max_images: Count = Field(300, description="Most images that are scored.")
    static_exits: bool = Field(True, description="Also score every exit alone, which costs one pass per exit.")
    thresholds: tuple[Threshold, ...] = Field(
        (0.8, 0.9, 0.95, 0.99), description="Each is a row of early exit with this threshold at every exit."
    )
    engine: EngineConfig = EngineConfig()
    output: str | None = Field(None, description="JSON file for the numbers; none: only printed.")


class CalibrateConfig(LabelledConfig):
    """Choose the exit thresholds of a checkpoint on labelled rows."""

    max_images: Count = Field(400, description="Most images whose confidences are recorded.")
    check_images: Count = Field(
        150, description="Of these, images decoded by the engine to check the quality of each candidate."
    )
    risks: tuple[Risk, ...] = Field(
        (0.002, 0.005, 0.01, 0.02, 0.04),
        description="Candidate rates of disagreement with full depth, per exit. Larger is shallower and riskier.",
    )
    max_points_lost: float = Field(
        0.5,
        description="Points of captions (F1 of object names, or ROUGE-L where nobody names them), of answers, and of "
        "the answers of each group that early exit may lose.",
    )
    exits: tuple[int, ...] | None = Field(
        None, description="Exits to use, ending with full depth; none: all trained ones."
    )
    decoder_prefix: str = Field(
        "", description="What outputs begin with, as engine.generation.decoder_prefix; none: what the checkpoint says."
    )
    num_slots: Count = Field(32, description="Sequences in flight while candidates are checked.")
